"""The one exception that means "the user has to change something", and what to suggest instead."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A user's mistake: its message is one clear line that names the file, key or value that is wrong.

    The command lines print it to stderr without a traceback and exit with code 2.
    """


def nearest(name: str, names: Iterable[str]) -> str:
    """What to say behind an unknown name: the known one that is nearest, or all of them."""
    known = list(names)
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; there are {', '.join(known)}" if known else ""
