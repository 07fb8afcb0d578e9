"""Tasks from outside the package: `my_module:MyTask`, and those that other packages register.

A module is found as any import is: in the current folder, on PYTHONPATH, or installed. A package registers a task under a
name of its own by an entry point in its pyproject.toml:

    [project.entry-points."retune_jax.tasks"]
    brackets = "my_package.brackets:Brackets"
"""

import functools
import hashlib
import importlib
import importlib.metadata
import sys
from pathlib import Path

from retune_jax.errors import UserError, nearest
from retune_jax.tasks.task import Task

GROUP = "retune_jax.tasks"
SAID = ("parse", "prompt", "solve", "length", "sample", "answer")  # what every task says
STATED = ("name", "trained_lengths", "evaluated_lengths")


@functools.cache
def registered() -> dict[str, str]:
    """What installed packages have registered: {name: "module:Class"}."""
    return {point.name: point.value for point in importlib.metadata.entry_points(group=GROUP)}


def load(name: str) -> Task:
    """The task that `module:Class` names. Raises UserError, which says what is wrong with it."""
    module_name, _, attribute = name.partition(":")
    if not all(part.isidentifier() for part in (*module_name.split("."), attribute)):
        raise UserError(f"task {name!r}: a task of your own is written my_module:MyTask")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and (module_name + ".").startswith(error.name + "."):
            raise UserError(
                f"task {name}: there is no module {error.name}; it has to lie in the current folder or on PYTHONPATH"
            ) from error
        raise UserError(f"task {name}: {module_name} needs {error.name}, which is not installed") from error
    except (Exception, SystemExit) as error:  # whatever a module does when it is imported
        raise UserError(f"task {name}: {module_name} does not import: {_said(error)}") from error
    kinds = [key for key, value in vars(module).items() if isinstance(value, type) and issubclass(value, Task)]
    if not hasattr(module, attribute):
        raise UserError(f"task {name}: {module.__file__} has no {attribute}{nearest(attribute, kinds)}")
    kind = getattr(module, attribute)
    if not (isinstance(kind, type) and issubclass(kind, Task)):
        raise UserError(f"task {name}: {attribute} is not a class derived from retune_jax.tasks.Task")
    lacking = [f"{what}()" for what in SAID if getattr(kind, what) is getattr(Task, what)]
    lacking += [what for what in STATED if not hasattr(kind, what)]
    if lacking:
        raise UserError(f"task {name}: {attribute} does not say {', '.join(lacking)}")
    try:
        return kind()
    except Exception as error:
        raise UserError(f"task {name}: {attribute}() fails: {_said(error)}") from error


def identity(name: str) -> str:
    """A name for files that depend on the task: of one from outside it changes with its module's source."""
    reference = registered().get(name, name)
    if ":" not in reference:
        return name
    load(reference)
    source = Path(sys.modules[reference.partition(":")[0]].__file__).read_bytes()
    return f"{name.replace(':', '.')}-{hashlib.sha256(source).hexdigest()[:8]}"


def _said(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
