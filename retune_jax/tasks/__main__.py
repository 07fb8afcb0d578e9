"""What a task teaches, and whether it keeps what every task has to keep.

    python -m retune_jax.tasks --task=addition --method=retune --problem="1234 + 5678"
    python -m retune_jax.tasks --check my_module:MyTask

The first prints the segments of one problem's true solution as JSON lines, in the order of generation: {"input": the window so
far, "output": the segment}, without outer whitespace. The second tries a task on problems of its own and reports line by line;
exit code 1 says that a promise is broken. A task is named as everywhere: `parity`, or `my_module:MyTask`.
"""

import json
import sys

from retune_jax import cli, tasks
from retune_jax.errors import UserError


def main(arguments: list[str]) -> None:
    """The command line. Raises UserError."""
    if CHECK.value is not None:
        cli.no_arguments(arguments)
        check(CHECK.value)
        return
    cli.no_arguments(arguments)
    for name, value in (("task", TASK.value), ("method", METHOD.value), ("problem", PROBLEM.value)):
        if value is None:
            raise UserError(f"--{name} is missing (or --check=TASK; see --help)")
    task = tasks.get(TASK.value)
    context = task.written(task.parse(PROBLEM.value), METHOD.value)
    for window, segment in context.turns(task.opening(METHOD.value)):
        print(json.dumps({"input": window.strip(), "output": segment.strip()}))


def check(name: str):
    """Tries the task and prints a line a promise; exits with 1 where one is broken."""
    from retune_jax import tokenizer
    from retune_jax.tasks import _check

    task = tasks.get(name)
    whole = True
    for kept, promise, said in _check.report(task, tokenizer.tiny(), _check.ROOM):
        print(f"{'ok  ' if kept else 'FAIL'}  {promise:<24}{said}")
        whole &= kept
    print(f"{name}: {'can be trained, solved and evaluated' if whole else 'is not ready yet'}")
    if not whole:
        sys.exit(1)


if __name__ == "__main__":
    from absl import flags

    TASK = flags.DEFINE_string("task", None, f"Task: {', '.join(tasks.names())}, or my_module:MyTask.")
    METHOD = flags.DEFINE_string("method", None, f"Method: {', '.join((*tasks.METHODS, *tasks.ABLATIONS))}.")
    PROBLEM = flags.DEFINE_string("problem", None, 'Problem, such as "1234 + 5678" or "[0, 1, 1]".')
    CHECK = flags.DEFINE_string("check", None, "Task to try, in place of printing a solution.")
    cli.run(main)
