"""Solves problems with a trained run, and shows how: the call tree as the model writes it.

    python -m retune_jax.solve --workdir=runs/addition-retune-tiny "1234 + 5678" "99 + 1"
    python -m retune_jax.solve --workdir=runs/addition-retune-tiny --file=problems.txt --json > solved.jsonl
    python -m retune_jax.solve --workdir=runs/addition-retune-tiny --interactive

A problem of the run's task is checked: what is wrong against the true recursion is marked where it was written. Any other
text is put to the model as it is. --json prints an object a problem, its call tree as a list of contexts, each segment with its
tokens and how likely the model found them; --file reads a problem a line and prints a line a problem, in the file's order. Exit
code 0 says that the model was run, not that it is right.
"""

import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from retune_jax import cli, config_file, disk, interrupts
from retune_jax.errors import UserError

HISTORY = Path("~/.cache/retune_jax/history")


def main(arguments: list[str]):
    """The command line."""
    run(arguments, workdir=WORKDIR.value, file=FILE.value, as_json=JSON.value, interactive=INTERACTIVE.value)


def run(problems: list[str], *, workdir: str, file: str | None, as_json: bool, interactive: bool):
    """Solves the problems, or those in the file, or those that are typed in, and prints what came out."""
    if [bool(problems), file is not None, interactive].count(True) != 1:
        raise UserError('give problems, such as "1234 + 5678", or --file=FILE, or --interactive')
    if interactive and as_json:
        raise UserError("--json: not with --interactive")
    if file is not None:
        problems = _lines(disk.folder(file, "--file"))
    folder = disk.folder(workdir, "--workdir")
    config = config_file.read_run(folder)
    from retune_jax.evaluation.solver import Solver  # here, so that --help and mistakes need not wait for JAX
    from retune_jax.evaluation.terminal import Terminal

    screen = Terminal(sys.stdout)
    with screen.waiting("loading the model"):
        solver = Solver.load(folder, config)
    if interactive:
        with interrupts.raising():
            _converse(solver, screen)
    elif as_json:
        for record in _told(solver.solve(problems, measure=True), len(problems)):
            print(json.dumps(record, ensure_ascii=False), flush=True)
    elif file is not None:
        for record in _told(solver.solve(problems), len(problems)):
            print(_line(record), flush=True)
    else:
        screen.show(solver, problems)


def _lines(path: Path) -> list[str]:
    """The problems in a file, blank lines left out."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--file: {path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    problems = [line.strip() for line in lines if line.strip()]
    if not problems:
        raise UserError(f"--file: {path} has no problems in it")
    return problems


def _told(records: Iterable[dict], total: int) -> Iterator[dict]:
    """The records as they come, with a bar on stderr."""
    from retune_jax.progress import bar

    with bar(total=total, unit="problem", desc="solve", disable=total == 1) as shown:
        for record in records:
            shown.update()
            yield record


def _line(record: dict) -> str:
    """What --file prints for a problem."""
    verdict = {True: "right", False: "wrong", None: "unchecked"}[record["correct"]]
    return "\t".join((record["problem"], record["value"].replace("\n", " "), record["status"], verdict))


def _converse(solver, screen):
    """Asks for problems until the input ends."""
    try:
        import readline  # gives input() its editing and history, where the system has it
    except ImportError:
        readline = None
    history = HISTORY.expanduser()
    if readline is not None and history.exists():
        readline.read_history_file(history)
    asks = "> " if sys.stdin.isatty() else ""
    try:
        while True:
            try:
                problem = input(asks).strip()
            except EOFError:
                break
            try:
                if problem:
                    screen.show(solver, [problem])
            except KeyboardInterrupt:  # gives up this problem only
                print("\nretune_jax: interrupted", file=sys.stderr)
    finally:
        if readline is not None and sys.stdin.isatty():
            history.parent.mkdir(parents=True, exist_ok=True)
            readline.set_history_length(1000)
            readline.write_history_file(history)


if __name__ == "__main__":
    from absl import flags

    WORKDIR = flags.DEFINE_string("workdir", None, "The folder of the run.", required=True)
    JSON = flags.DEFINE_bool("json", False, "Print one JSON object a problem.")
    FILE = flags.DEFINE_string("file", None, "A text file with a problem a line.")
    INTERACTIVE = flags.DEFINE_bool("interactive", False, "Ask for problems, one after the other; Ctrl-D ends.")
    cli.run(main)
