"""Print what a task teaches: the segments of one problem's true solution, as JSON lines, in the order of generation.

    python -m retune_jax.tasks --task=addition --method=retune --problem="1234 + 5678"

Each line is {"input": the window so far, "output": the segment}, without outer whitespace.
"""

import json

from absl import flags

from retune_jax import cli, tasks

TASK = flags.DEFINE_string("task", None, f"Task: {', '.join(tasks.names())}.", required=True)
METHOD = flags.DEFINE_string("method", None, f"Method: {', '.join(tasks.METHODS)}.", required=True)
PROBLEM = flags.DEFINE_string("problem", None, 'Problem, such as "1234 + 5678" or "[0, 1, 1]".', required=True)


def main(arguments: list[str]) -> None:
    """Print the segments. Raises UserError."""
    cli.no_arguments(arguments)
    task = tasks.get(TASK.value)
    context = task.written(task.parse(PROBLEM.value), METHOD.value)
    for window, segment in context.turns(task.opening(METHOD.value)):
        print(json.dumps({"input": window.strip(), "output": segment.strip()}))


if __name__ == "__main__":
    cli.run(main)
