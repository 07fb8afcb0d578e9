"""A run's config.json: written in one go, read back by any version, and compared with what is asked for now.

The same command goes on with a run; another experiment in the same folder is refused. `first_difference` says which key makes
it another, and `MAY_CHANGE` which do not.
"""

import json
import sys
from pathlib import Path

from ml_collections import ConfigDict

from retune_jax import config as recipes
from retune_jax import disk, tasks
from retune_jax.errors import UserError, close

FILE = "config.json"  # of a run's folder

# A run that goes on may change these: where it runs and how fast, how long, and what is asked of the result. What is learned
# from a step stays.
WHERE = (
    *("data.dir", "mesh", "log", "profile", "train.log_every", "train.save_every", "train.keep", "train.keep_best"),
    *("train.remat", "train.attention"),
)
MAY_CHANGE = (*WHERE, "train.steps", "decode", "eval")


def write(config: ConfigDict, path: Path):
    """Writes a configuration as JSON, in one go: the file is there whole or not at all."""
    with disk.replacing(path) as fresh:
        fresh.write_text(_json(config) + "\n")


def read_run(workdir: Path) -> ConfigDict:
    """The configuration of the run in `workdir`; a `UserError` where there is none."""
    if not (workdir / FILE).is_file():
        raise UserError(f"{workdir} is not the folder of a run (it has no {FILE})")
    return read(workdir / FILE)


def read(path: Path) -> ConfigDict:
    """Reads what `write` wrote, also of another version of this project.

    A key that this version does not know is refused by name. One that is missing takes its default, said on stderr.

    Raises:
        UserError: says what is wrong with the file.
    """
    try:
        found = json.loads(path.read_text())
        if not isinstance(found, dict) or not {"task", "method", "model", "train", "decode", "eval"} <= found.keys():
            raise UserError(f"{path} is not the configuration of a run (another program's)")
        config = recipes.template(found["task"], found["method"], found["model"])
        known, given = recipes.flat(config.to_dict()), recipes.flat(found)
        if unknown := [key for key in given if key not in known]:
            raise UserError(f"{path}: this version knows no key {unknown[0]!r}{close(unknown[0], known)}")
        missing = [key for key in known if key not in given]
        if "decode.opening" in missing and found["task"] != recipes.PRETRAINING:
            given["decode.opening"] = tasks.get(found["task"]).opening(found["method"])
        with config.unlocked():
            config.update_from_flattened_dict(given)
    except (OSError, ValueError, TypeError, AttributeError) as error:  # no JSON, or values of another kind
        raise UserError(f"{path}: {getattr(error, 'strerror', None) or ' '.join(str(error).split())}") from error
    if missing:
        values = recipes.flat(config.to_dict())
        defaults = ", ".join(f"{key}={values[key]!r}" for key in missing)
        print(f"retune_jax: {path} is of another version and takes defaults: {defaults}", file=sys.stderr)
    return config.lock()


def first_difference(old: ConfigDict, new: ConfigDict, free: tuple[str, ...] = MAY_CHANGE) -> tuple[str, object, object] | None:
    """The first key, with both values, in which `new` is another experiment than `old`; None where it is the same.

    Args:
        free: keys, and parts with all their keys, that may differ.
    """
    before, after = recipes.flat(json.loads(_json(old))), recipes.flat(json.loads(_json(new)))  # in JSON a tuple is a list
    before["base"], after["base"] = whole_path(old.base), whole_path(new.base)
    for key in [*after, *before]:
        changes = any(key == name or key.startswith(name + ".") for name in free)
        if not changes and before.get(key) != after.get(key):
            return key, before.get(key), after.get(key)
    return None


def same_result(old: ConfigDict, new: ConfigDict) -> bool:
    """Whether both lead to the same evaluation of the same training, wherever it takes place."""
    return first_difference(old, new, WHERE) is None


def whole_path(base: str | None) -> str | None:
    """`config.base`, a folder as a whole path, so that it says the same from any folder."""
    return base if base in (None, "tiny", "random") else str(disk.folder(base, "config.base").absolute())


def _json(config: ConfigDict) -> str:
    return json.dumps(config.to_dict(), indent=2)
