"""How a command ends at Ctrl-C: with one line and exit code 130, at once, whatever it is doing.

Python answers a signal between two steps of the main thread. While that thread compiles a program or reads a large file, a
Ctrl-C would wait, for minutes with a large model, and then unwind a program whose compile threads outlive it. So a thread waits
for signals instead, which the interpreter hands it through a pipe the moment they come:

    python -m retune_jax.X       `install` is called while the package is imported, before anything heavy
    Ctrl-C                       the thread prints one line and ends the process
    with handling(note): …       meanwhile Ctrl-C and SIGTERM call note(number) instead: training saves first

Nothing else has to be undone then: what the project writes is whole or not there (`disk`).
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator

SIGNALS = (signal.SIGINT, signal.SIGTERM)

_installed = False
_handlers: list[Callable[[int], None]] = []  # the innermost `handling` last
_terminal = None  # of stdin, as it was


def install():
    """From now on Ctrl-C ends this process. To be called by its main thread, once."""
    global _installed, _terminal
    if os.name != "posix":
        return  # `disk` says which systems there are
    readable, writable = os.pipe()
    os.set_blocking(writable, False)
    signal.set_wakeup_fd(writable, warn_on_full_buffer=False)
    signal.signal(signal.SIGINT, _pass)
    threading.Thread(target=_wait, args=(readable,), daemon=True, name="interrupts").start()
    os.register_at_fork(after_in_child=_leave_to_parent)
    _terminal = _settings()
    _installed = True


def end(number: int):
    """Ends the process as a signal asks: one line, and the exit code that shells expect."""
    flush = threading.Thread(target=sys.stdout.flush, daemon=True)  # the main thread may be stuck in writing
    flush.start()
    flush.join(0.5)
    if "multiprocessing.process" in sys.modules:
        for child in sys.modules["multiprocessing.process"].active_children():
            child.terminate()
    if _terminal is not None:
        import termios

        with contextlib.suppress(termios.error):
            termios.tcsetattr(0, termios.TCSANOW, _terminal)
    word = "interrupted" if number == signal.SIGINT else "terminated"
    with contextlib.suppress(OSError):
        cursor = "\x1b[?25h" if os.isatty(2) else ""  # a spinner may have hidden it
        os.write(2, f"{cursor}\nretune_jax: {word}\n".encode())  # a line of its own, not behind a progress bar
    os._exit(128 + number)


@contextlib.contextmanager
def handling(note: Callable[[int], None]) -> Iterator[None]:
    """While entered, Ctrl-C and SIGTERM call `note(number)` and do nothing else.

    Where the thread of this module waits for signals, it calls; else the main thread does, as Python has it. In another thread
    than the main one nothing can be handled, and nothing is.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = _pass if _installed else lambda number, frame: note(number)
    before = {number: signal.signal(number, handler) for number in SIGNALS}
    _handlers.append(note)
    try:
        yield
    finally:
        _handlers.remove(note)
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def raising() -> Iterator[None]:
    """While entered, Ctrl-C raises KeyboardInterrupt in the main thread, for a prompt that lives on."""
    with handling(lambda number: None if number == signal.SIGINT else end(number)):
        signal.signal(signal.SIGINT, signal.default_int_handler)
        yield


def installed() -> bool:
    """Whether this process's signals are answered here."""
    return _installed


def _wait(readable: int):
    while numbers := os.read(readable, 64):
        for number in numbers:
            if _handlers:
                _handlers[-1](number)
            elif number == signal.SIGINT:
                end(number)


def _pass(number, frame):
    """What the main thread does at a signal that the other one answers."""


def _leave_to_parent():
    """A forked process has no such thread: it ends as programs do."""
    signal.set_wakeup_fd(-1)
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)


def _settings():
    if not os.isatty(0):
        return None
    import termios

    with contextlib.suppress(termios.error):
        return termios.tcgetattr(0)
