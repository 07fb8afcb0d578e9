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

A new file in this folder is a new task: `task.py` shows how to write one. A task may as well live elsewhere: `my_module:MyTask`
names it wherever a task's name is asked for, and a package can register one (`_outside.py`). Nothing in here imports JAX.
"""

import importlib
import pkgutil

from retune_jax.errors import UserError, nearest
from retune_jax.tasks import _outside
from retune_jax.tasks._outside import identity
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
    "identity",
    "names",
    "reworded",
    "trace",
    "with_training_set",
    "wording_names",
]


def names() -> list[str]:
    """Names of all tasks: of the files in this folder, and of what other packages have registered."""
    modules = (module.name for module in pkgutil.iter_modules(__path__))
    shipped = {name for name in modules if name != "task" and not name.startswith("_")}
    return sorted(shipped | set(_outside.registered()))


def get(name: str) -> Task:
    """The task of that name, which may be `module:Class` for one from anywhere. Raises UserError where there is none."""
    if ":" in name:
        return _outside.load(name)
    if name not in names():
        raise UserError(f"no task is called {name!r}{nearest(name, names())}; one of your own is my_module:MyTask")
    if name in _outside.registered():
        return _outside.load(_outside.registered()[name])
    module = importlib.import_module(f"{__name__}.{name}")
    own = (value for value in vars(module).values() if isinstance(value, type) and value.__module__ == module.__name__)
    return next(value for value in own if issubclass(value, Task))()
