"""Ending a run early: Ctrl-C and SIGTERM ask for it, and the loop answers when a step is done.

    with StopRequests() as stop:
        for step in steps:
            …
            if stop.requested: …save, and leave

A second signal is not caught, and ends the process at once.
"""

import signal

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequests:
    """While entered, notes the first Ctrl-C or SIGTERM in `requested` (a `signal.Signals`, or None)."""

    requested: signal.Signals | None = None

    def __enter__(self):
        self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def _note(self, number, frame):
        self.requested = signal.Signals(number)
        self._restore()

    def __exit__(self, *exception):
        self._restore()

    def _restore(self):
        for number, handler in self._before.items():
            signal.signal(number, handler)
