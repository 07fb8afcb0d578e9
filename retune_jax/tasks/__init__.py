"""Tasks: families of problems with a recursive solution, one file each.

>>> names()
['addition', 'dynamic_programming', 'merge_sort', 'multiplication', 'parity', 'satisfiability']
>>> parity = get("parity")
>>> context = trace(parity, parity.parse("[0, 1, 1]"))
>>> print(context.text)
 What is the parity of [0, 1, 1]?
Solution: Call: What is the parity of [1, 1]?
Return: 0
Answer: 0

A new file in this folder is a new task: `task.py` shows how to write one. Nothing in here imports JAX.
"""

import importlib
import pkgutil

from retune_jax.errors import UserError
from retune_jax.tasks._variants import ALL, PAPER, Wording, reworded, with_training_set, wording_names
from retune_jax.tasks.task import ABLATIONS, METHODS, Answer, Call, ProblemError, Task, calls, trace

__all__ = [
    "ABLATIONS",
    "ALL",
    "METHODS",
    "PAPER",
    "Answer",
    "Call",
    "ProblemError",
    "Task",
    "Wording",
    "calls",
    "get",
    "names",
    "reworded",
    "trace",
    "with_training_set",
    "wording_names",
]


def names() -> list[str]:
    """Names of all tasks, which are the names of their files."""
    modules = (module.name for module in pkgutil.iter_modules(__path__))
    return sorted(name for name in modules if name != "task" and not name.startswith("_"))


def get(name: str) -> Task:
    """Return the task of that name. Raises UserError, which lists the known ones, where there is none."""
    if name not in names():
        raise UserError(f"no task is called {name!r}; there are {', '.join(names())}")
    module = importlib.import_module(f"{__name__}.{name}")
    own = (value for value in vars(module).values() if isinstance(value, type) and value.__module__ == module.__name__)
    return next(value for value in own if issubclass(value, Task))()
