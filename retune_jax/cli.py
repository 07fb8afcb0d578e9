"""What all command lines share: how a mistake on the command line ends.

Every `python -m retune_jax.X` ends with `cli.run(main)`. Exit code 0 means that the work was done. A user's mistake (a
`UserError`, a wrong flag, a wrong config key) is one line on stderr and exit code 2, without a traceback; a full or broken disk
is one line and exit code 1; any other traceback means a mistake of the program. Ctrl-C is one line and exit code 130, as shells
expect (`interrupts`).
"""

import contextlib
import os
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from retune_jax import compiled, disk, usage
from retune_jax.errors import UserError


def run(main: Callable[[list[str]], object]):
    """Parses the flags, calls `main(arguments)` with what is left of the command line, and exits."""
    logging.set_verbosity(logging.WARNING)  # the libraries tell a user nothing below that
    _quiet_threads()
    compiled.keep()
    if os.environ.pop("JAX_ENABLE_X64", "0").lower() not in ("0", "false", "no", "off", ""):
        print("retune_jax: JAX_ENABLE_X64 is left aside: everything here is in 32 bits or fewer", file=sys.stderr)
    try:
        app.run(lambda argv: _done(main(argv[1:])), flags_parser=_parse_flags)
    except UserError as error:
        print(f"retune_jax: error: {_one_line(error)}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("\nretune_jax: interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # `… | head -1` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except Exception as error:
        reason = str(error) if isinstance(error, disk.DiskError) else disk.trouble(error)
        if reason is None:
            raise
        print(f"retune_jax: {reason}", file=sys.stderr, flush=True)
        os._exit(1)  # at once: the threads that could not write would say so, each with a traceback


def _done(_):
    sys.stdout.flush()  # here, so that a pipe that nobody reads is noticed


def _quiet_threads():
    """Keeps the threads of libraries from printing what the main thread is told as well, and says in one line."""
    logging.get_absl_logger().addFilter(lambda record: "orbax" not in record.pathname)
    show = sys.excepthook

    def excepthook(kind, error, trace):
        if "Event loop is closed" not in str(error) and disk.trouble(error) is None:
            show(kind, error, trace)

    sys.excepthook = excepthook


def no_arguments(arguments: list[str]):
    """For a command that takes flags only: a `UserError` names what else was typed."""
    if arguments:
        raise UserError(f"unexpected argument {arguments[0]!r}: this command takes flags only (see --help)")


def override(config: ConfigDict, arguments: list[str], *, parts: tuple[str, ...]):
    """Sets keys of a run's configuration from `--config.KEY=VALUE`, for a command that reads it from the run's folder.

    Args:
        config: changed in place.
        arguments: what `run` handed to `main`; anything but such a flag is refused.
        parts: the parts of the configuration that may be changed; the others made the run what it is.
    """
    for argument in sorted(arguments, key=lambda argument: not argument.startswith("--config.")):
        name, equals, _ = argument.partition("=")
        if not name.startswith("--config."):
            raise UserError(f"unexpected argument {argument!r}: this command takes flags only (see --help)")
        if not equals:
            raise UserError(f"{name}: write {name}=VALUE")
        part = name.split(".")[1]
        if part in config and part not in parts:
            shown = (f"--config.{part}{'.KEY' if isinstance(config[part], ConfigDict) else ''}" for part in parts)
            raise UserError(f"{argument}: made the run what it is; here only {', '.join(shown)} can be set")
    values = flags.FlagValues()
    argv = ["", *arguments]
    with _explained(argv):
        config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=argv)
        values(argv)


def configuration(given: str, overrides: Sequence[str]) -> ConfigDict:
    """The configuration that `--config=given` and its overrides stand for, without running anything."""
    values = flags.FlagValues()
    argv = ["", f"--config={given}", *overrides]
    with _explained(argv):
        config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=argv)
        values(argv)
        dir(values["config"].value.task)
        return values["config"].value


def _parse_flags(argv: list[str]) -> list[str]:
    if usage.asked(argv):
        print(usage.text())
        sys.exit(0)
    # A command without --config hands its overrides on to `override`.
    handed_on = [] if "config" in flags.FLAGS else [text for text in argv[1:] if text.startswith("--config.")]
    with _explained(argv):
        rest = flags.FLAGS([text for text in argv if text not in handed_on])
        if "config" in flags.FLAGS:
            dir(flags.FLAGS["config"].value.task)  # ml_collections keeps a missing file to itself until it is touched
        return rest + handed_on


@contextlib.contextmanager
def _explained(argv: list[str]):
    """Turns what the flags' libraries and a config file raise at a mistake into a `UserError`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # ml_collections loads modules in an old way
            yield
    except SystemExit:  # --help has printed what was asked for; absl would exit with 1
        sys.exit(0)
    except UserError:
        raise
    except flags.Error as error:
        raise UserError(f"{_one_line(error)} (see --help)") from error
    except Exception as error:
        raise _unknown_key(argv, error) or _in_config_file(argv, error) from error


def _unknown_key(argv: list[str], error: Exception) -> UserError | None:
    """The `UserError` for an override of a config key that does not exist; None where the error is another."""
    if not isinstance(error, (AttributeError, KeyError)):
        return None
    words = re.findall(r"\w+", str(error).replace("\\n", " "))
    for argument in argv[1:]:
        flag = argument.split("=")[0]
        keys = flag.lstrip("-").split(".")[1:]
        if wrong := [key for key in keys if key in words]:
            nearest = re.search(r'Did you mean \\*"(\w+)', str(error))
            hint = f"; did you mean {nearest[1]!r}?" if nearest else ""
            return UserError(f"{flag}: the config has no key {wrong[-1]!r}{hint}")
    return None


def _in_config_file(argv: list[str], error: Exception) -> UserError:
    """The `UserError` for whatever else reading --config and its overrides raised; names the line."""
    given = next((text.partition("=")[2] for text in argv[1:] if text.lstrip("-").startswith("config=")), "")
    file = given.partition(":")[0]
    reason = re.search(r"\[Errno \d+\] (.*)", str(error))
    if reason and ".py" in given[len(file) :]:
        return UserError(f"--config={given}: the path of a config file cannot hold a colon; its arguments begin there")
    if isinstance(error, OSError) or reason:
        return UserError(f"--config={given}: {reason[1] if reason else _one_line(error)}")
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if file and frame.filename.endswith(file)]
    if isinstance(error, SyntaxError):
        lines = [error.lineno]
    where = f"line {lines[-1]}: " if lines else ""
    return UserError(f"--config={given}: {where}{type(error).__name__}: {_one_line(error)}")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
