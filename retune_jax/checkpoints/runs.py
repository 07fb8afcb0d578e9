"""A run's folder: what training writes, and what going on, evaluating and exporting read.

    config.json      the resolved configuration
    metrics.jsonl    a line a logged step
    checkpoints/200  an Orbax checkpoint after step 200: parameters and optimizer state, data iterator state, config
    eval.json        what evaluate.py found
    base/            of a run that trains all weights: the result, as a base folder (see `weights`)

Checkpoints are written beside their final name and renamed, so that a kill leaves the ones before. One that is damaged
all the same (a full disk, a copy cut short) is named on stderr, set aside, and the one before it is used.
"""

import contextlib
import io
import os
import shutil
import sys
import tempfile
from pathlib import Path

import jax
import orbax.checkpoint as ocp
from flax import nnx
from ml_collections import ConfigDict

from retune_jax import config as recipes
from retune_jax.checkpoints import weights
from retune_jax.errors import UserError
from retune_jax.models.llama import Llama
from retune_jax.models.lora import LoRAParam
from retune_jax.tokenizer import Tokenizer

CONFIG, METRICS, CHECKPOINTS, EVAL, BASE = "config.json", "metrics.jsonl", "checkpoints", "eval.json", "base"


def read_config(workdir: Path) -> ConfigDict:
    """The configuration of the run in `workdir`; a `UserError` where there is none."""
    if not (workdir / CONFIG).is_file():
        raise UserError(f"{workdir} is not the folder of a run (it has no {CONFIG})")
    try:
        config = recipes.read(workdir / CONFIG)
    except (ValueError, AttributeError) as error:  # no JSON, or no object
        raise UserError(f"{workdir / CONFIG}: {error}") from error
    if not {"task", "method", "train", "decode", "eval"} <= set(config):  # other programs have a config.json too
        raise UserError(f"{workdir} is not the folder of a run (its {CONFIG} is another program's)")
    return config


def check(workdir: Path, config: ConfigDict):
    """Refuses, without writing, a folder that cannot be written to or that holds another experiment than `config`."""
    nearest = next(path for path in (workdir, *workdir.absolute().parents) if path.exists())
    if not nearest.is_dir():
        raise UserError(f"{workdir} cannot be made: {nearest} is a file")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise UserError(f"{workdir} cannot be written to: no permission for {nearest}")
    started = (workdir / METRICS).exists() or (workdir / CHECKPOINTS).exists()
    if not started:  # a config.json alone is what a run left that ended before its first step
        return
    if difference := recipes.first_difference(read_config(workdir), config):
        key, old, new = difference
        raise UserError(f"{workdir} holds a run with {key}={old}, not {new}: give this one a --workdir of its own")


def claim(workdir: Path, config: ConfigDict):
    """Makes the folder and writes `config` into it."""
    claim_folder(workdir)
    recipes.write(config, workdir / CONFIG)


def claim_folder(folder: Path):
    """Makes a folder, or sees that files can be made in it; a `UserError` says why not."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise UserError(f"{folder} cannot be written to: {error.strerror}") from error


def drop_results(workdir: Path):
    """Removes what was made of a run's end, because the run goes on past it."""
    (workdir / EVAL).unlink(missing_ok=True)
    shutil.rmtree(workdir / BASE, ignore_errors=True)


class Checkpoints:
    """The checkpoints of a run, newest first in all that reads them.

    Args:
        workdir: the run's folder.
        keep: how many to keep when writing; None for a reader, which changes nothing on disk.
    """

    def __init__(self, workdir: Path, *, keep: int | None):
        self.folder = (workdir / CHECKPOINTS).absolute()
        self.writes = keep is not None
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=self.writes, cleanup_tmp_directories=self.writes)
        self.manager = ocp.CheckpointManager(self.folder, options=options)

    def latest_step(self) -> int | None:
        """The newest checkpoint's step, whole or damaged; None where there is none."""
        return self.manager.latest_step()

    def save(self, step: int, *, params, optimizer, data: dict, config: ConfigDict):
        """Starts writing in the background; a step that is there already is left as it is."""
        if step == self.latest_step():
            return
        items = ocp.args.Composite(
            params=ocp.args.StandardSave(params),
            optimizer=ocp.args.StandardSave(optimizer),
            data=ocp.args.JsonSave(data),
            config=ocp.args.JsonSave(config.to_dict()),
        )
        self.manager.save(step, args=items)

    def restore(self, **like):
        """The newest whole checkpoint: its step and a dict of the items asked for; None where there is none at all.

        Args:
            **like: item name to a tree of `jax.ShapeDtypeStruct`s with shardings; for `data`, None.

        Raises:
            UserError: there are checkpoints, but all are damaged.
        """
        wanted = {
            name: ocp.args.JsonRestore() if tree is None else ocp.args.StandardRestore(tree) for name, tree in like.items()
        }
        steps = sorted(self.manager.all_steps(), reverse=True)
        for step in steps:
            try:
                # The threads of a restore that failed print tracebacks of their own.
                with contextlib.redirect_stderr(io.StringIO()):
                    return step, dict(self.manager.restore(step, args=ocp.args.Composite(**wanted)))
            except Exception as error:  # whatever a damaged file makes the readers below raise
                reason = str(error).strip().split("\n")[0][:200] or type(error).__name__
                print(f"retune_jax: checkpoint {self.folder / str(step)} is damaged: {reason}", file=sys.stderr)
                self._set_aside(step)
        if steps:
            raise UserError(f"{self.folder}: no checkpoint can be read")
        return None

    def _set_aside(self, step: int):
        if self.writes and jax.process_index() == 0:
            (self.folder / str(step)).rename(self.folder / f"damaged-{step}")
        self.manager.reload()

    def wait(self):
        """Returns when all that was saved is on disk."""
        self.manager.wait_until_finished()

    def close(self):
        """Waits, and ends the background threads."""
        self.manager.close()


def abstract(tree):
    """Shapes, dtypes and shardings of a tree of arrays: what `Checkpoints.restore` wants."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)


def trained(lora) -> type[nnx.Param]:
    """The kind of parameter that a run trains: the adapter's, or all where there is no adapter."""
    return nnx.Param if lora is None else LoRAParam


def load_model(workdir: Path, mesh: jax.sharding.Mesh) -> tuple[ConfigDict, Llama, Tokenizer]:
    """The model that a run has trained so far, on the mesh, with the run's configuration and tokenizer."""
    config = read_config(workdir)
    base = weights.load_base(config.base, config.model)
    lora = weights.lora_config(config.lora)
    model = weights.assemble(base, lora, remat="none", context_length=None, seed=config.seed, mesh=mesh)
    graphdef, params, rest = nnx.split(model, trained(lora), ...)
    if not (workdir / CHECKPOINTS).is_dir():
        raise UserError(f"{workdir} has no checkpoint yet: train it first")
    checkpoints = Checkpoints(workdir, keep=None)
    found = checkpoints.restore(params=abstract(nnx.to_pure_dict(params)))
    checkpoints.close()
    if found is None:
        raise UserError(f"{workdir} has no checkpoint yet: train it first")
    return config, nnx.merge(graphdef, found[1]["params"], rest), base.tokenizer
