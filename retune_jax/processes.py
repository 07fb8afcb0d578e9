"""A command of this project as a child of another: it is never left behind, and never lost.

    code = call([sys.executable, "-m", "retune_jax.train", …])

The child has a process group of its own, so that a Ctrl-C in the terminal comes to the caller alone, which passes Ctrl-C and
SIGTERM on, waits for as long as the child takes to save, and then ends as the signal asked.
"""

import signal
import subprocess
import sys
from collections.abc import Sequence

from retune_jax import interrupts


def call(command: Sequence[str]) -> int:
    """Runs a command, its stdout dropped, and returns its exit code (a signal's as shells tell it).

    Raises:
        SystemExit: with 130 or 143 where such a signal came, once the command has ended.
    """
    received: list[int] = []
    child: list[subprocess.Popen] = []

    def pass_on(number: int):
        received.append(number)
        if child:
            child[0].send_signal(number)

    with interrupts.handling(pass_on):
        child.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, process_group=0))
        if received and child[0].poll() is None:  # it came while the child was being started
            child[0].send_signal(received[0])
        code = child[0].wait()
    if received:
        print(f"retune_jax: {signal.Signals(received[0]).name} was passed on, and the run has ended", file=sys.stderr)
        sys.exit(128 + received[0])
    return code if code >= 0 else 128 - code
