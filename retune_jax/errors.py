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
    return close(name, known) or (f"; there are {', '.join(known)}" if known else "")


def close(name: str, names: Iterable[str]) -> str:
    """What to say behind an unknown name: the known one that is nearest, or nothing where none is near."""
    found = difflib.get_close_matches(name, list(names), n=1)
    return f"; did you mean {found[0]!r}?" if found else ""
