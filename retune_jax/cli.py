"""What all command lines share: how a mistake on the command line ends.

Every `python -m retune_jax.X` ends with `cli.run(main)`. Exit code 0 means that the work was done. A user's mistake (a
`UserError`, a wrong flag, a wrong config key) is one line on stderr and exit code 2, without a traceback; a traceback
always means a mistake of the program. Ctrl-C is one line and exit code 130, as shells expect.
"""

import re
import sys
from collections.abc import Callable

from absl import app, flags, logging

from retune_jax import compiled
from retune_jax.errors import UserError


def run(main: Callable[[list[str]], None]):
    """Parses the flags, calls `main(arguments)` with what is left of the command line, and exits."""
    logging.set_verbosity(logging.WARNING)  # the libraries tell a user nothing below that
    compiled.keep()
    try:
        app.run(lambda argv: main(argv[1:]), flags_parser=_parse_flags)
    except UserError as error:
        print(f"retune_jax: error: {_one_line(error)}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("\nretune_jax: interrupted", file=sys.stderr)
        sys.exit(130)


def no_arguments(arguments: list[str]):
    """For a command that takes flags only: a `UserError` names what else was typed."""
    if arguments:
        raise UserError(f"unexpected argument {arguments[0]!r}: this command takes flags only (see --help)")


def _parse_flags(argv: list[str]) -> list[str]:
    try:
        rest = flags.FLAGS(argv)
        if "config" in flags.FLAGS:
            dir(flags.FLAGS["config"].value.task)  # ml_collections keeps a missing file to itself until it is touched
        return rest
    except SystemExit:  # --help has printed what was asked for; absl would exit with 1
        sys.exit(0)
    except flags.Error as error:
        raise UserError(f"{_one_line(error)} (see --help)") from error
    except OSError as error:
        reason = re.search(r"\[Errno \d+\] (.*)", str(error))
        raise UserError(f"--config: {reason[1] if reason else _one_line(error)}") from error
    except (AttributeError, KeyError) as error:
        raise _unknown_key(argv, error) or error from error


def _unknown_key(argv: list[str], error: Exception) -> UserError | None:
    """The `UserError` for an override of a config key that does not exist; None where the error is another."""
    words = re.findall(r"\w+", str(error).replace("\\n", " "))
    for argument in argv[1:]:
        flag = argument.split("=")[0]
        keys = flag.lstrip("-").split(".")[1:]
        if wrong := [key for key in keys if key in words]:
            nearest = re.search(r'Did you mean \\*"(\w+)', str(error))
            hint = f"; did you mean {nearest[1]!r}?" if nearest else ""
            return UserError(f"{flag}: the config has no key {wrong[-1]!r}{hint}")
    return None


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
