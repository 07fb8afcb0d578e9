"""Ending a run early: Ctrl-C and SIGTERM ask for it, and the loop answers when a step is done.

    with StopRequests() as stop:
        for step in steps:
            …
            stop.unsaved = True
            if stop.requested: …save, and leave

Before the first step there is nothing to save, and the process ends at once; so it does at a second Ctrl-C. (A scheduler may
say SIGTERM twice, and means the same.)
"""

import signal

from retune_jax import interrupts


class StopRequests:
    """While entered, notes the first Ctrl-C or SIGTERM in `requested` (a `signal.Signals`, or None).

    Attributes:
        requested: which signal came.
        unsaved: whether work would be lost if the process ended now; the loop says so.
    """

    requested: signal.Signals | None = None

    def __init__(self, unsaved: bool = False):
        self.unsaved = unsaved

    def __enter__(self):
        self._handling = interrupts.handling(self._note)
        self._handling.__enter__()
        return self

    def _note(self, number: int):
        again = self.requested is not None and number == signal.SIGINT
        if interrupts.installed() and (again or not self.unsaved):
            interrupts.end(number)
        if again:  # in a program of the user's own
            raise KeyboardInterrupt
        if self.requested is None:
            self.requested = signal.Signals(number)

    def __exit__(self, *exception):
        self._handling.__exit__(*exception)
