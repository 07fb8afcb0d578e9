"""A run's folder: what training writes, and what going on, evaluating and exporting read.

    config.json      the resolved configuration
    base.json        which base weights the run was started from: their fingerprint
    metrics.jsonl    a line a logged step
    checkpoints/200  an Orbax checkpoint after step 200: parameters and optimizer state, data iterator state, config
    eval.json        what evaluate.py found
    base/            of a run that trains all weights: the result, as a base folder (see `weights`)

Checkpoints are written beside their final name and renamed, so that a kill leaves the ones before. One that is damaged
all the same (a full disk, a copy cut short) is named on stderr, set aside, and the one before it is used.
"""

import contextlib
import io
import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax import nnx, traverse_util
from ml_collections import ConfigDict
from orbax.checkpoint import checkpoint_managers as policies

from retune_jax import config_file, disk, distributed
from retune_jax.checkpoints import weights
from retune_jax.errors import UserError
from retune_jax.models.llama import Llama
from retune_jax.models.lora import LoraConfig, LoRAParam
from retune_jax.tokenizer import Tokenizer

CONFIG, METRICS, CHECKPOINTS, EVAL, BASE = config_file.FILE, "metrics.jsonl", "checkpoints", "eval.json", "base"
LOCK, ORIGIN = ".lock", "base.json"
VALIDATION = "validation_loss"

read_config = config_file.read_run


def check(workdir: Path, config: ConfigDict):
    """Refuses, without writing, a folder that cannot be written to or that holds another experiment than `config`."""
    nearest = next(path for path in (workdir, *workdir.absolute().parents) if path.exists())
    if not nearest.is_dir():
        raise UserError(f"{workdir} cannot be made: {nearest} is a file")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise UserError(f"{workdir} cannot be written to: no permission for {nearest}")
    if (workdir / CONFIG).exists():
        read_config(workdir)  # another program's is not to be written over
    if not started(workdir):
        return
    free = (*config_file.MAY_CHANGE, "base") if (workdir / ORIGIN).exists() else config_file.MAY_CHANGE  # see `check_base`
    if difference := config_file.first_difference(read_config(workdir), config, free):
        key, old, new = difference
        raise UserError(f"{workdir} holds a run with {key}={old}, not {new}: give this one a --workdir of its own")
    if (done := last_step(workdir)) > config.train.steps:
        raise UserError(
            f"config.train.steps: {workdir} has {done} steps already, more than {config.train.steps}: "
            "give a shorter run a --workdir of its own"
        )


def started(workdir: Path) -> bool:
    """Whether a run has got so far that its folder belongs to it: to a checkpoint or a line of metrics."""
    checkpoints, metrics = workdir / CHECKPOINTS, workdir / METRICS
    return (checkpoints.is_dir() and any(checkpoints.iterdir())) or (metrics.is_file() and metrics.stat().st_size > 0)


def last_step(workdir: Path) -> int:
    """The step of the newest checkpoint in the folder, whole or damaged; 0 where there is none."""
    return max((int(path.name) for path in (workdir / CHECKPOINTS).glob("*") if path.name.isdecimal()), default=0)


def check_base(workdir: Path, base: weights.Base):
    """Refuses base weights other than those that the run in `workdir` was started from."""
    if (workdir / ORIGIN).exists() and json.loads((workdir / ORIGIN).read_text())["fingerprint"] != base.fingerprint:
        raise UserError(f"{workdir} was trained from other base weights than those that config.base names now")


@contextlib.contextmanager
def hold(workdir: Path) -> Iterator[None]:
    """Keeps every other process from writing into the folder; a `UserError` where one is at it."""
    if jax.process_index():
        yield
        return
    with disk.locked(workdir / LOCK, wait=False) as ours:
        if not ours:
            raise UserError(f"{workdir} is being written to by another process: wait for it, or give another folder")
        yield


def claim(workdir: Path, config: ConfigDict):
    """Makes the folder and writes `config` into it."""
    disk.claim(workdir)
    config_file.write(config, workdir / CONFIG)


def keep_origin(workdir: Path, base: weights.Base):
    """Writes down which base weights a run starts from; one that has started keeps what it has."""
    if not started(workdir):
        with disk.replacing(workdir / ORIGIN) as fresh:
            fresh.write_text(json.dumps({"fingerprint": base.fingerprint}) + "\n")


def drop_results(workdir: Path, *, base: bool):
    """Removes the evaluation of a run's end, and, where the run goes on past it, the `base` made of it."""
    (workdir / EVAL).unlink(missing_ok=True)
    if base:
        shutil.rmtree(workdir / BASE, ignore_errors=True)


class Checkpoints:
    """The checkpoints of a run, newest first in all that reads them.

    Args:
        workdir: the run's folder.
        keep: how many to keep when writing, the newest; None for a reader, which changes nothing on disk.
        keep_best: how many to keep besides, those with the smallest validation loss.
    """

    def __init__(self, workdir: Path, *, keep: int | None, keep_best: int = 0):
        self.folder = (workdir / CHECKPOINTS).absolute()
        self.writes = keep is not None
        options = ocp.CheckpointManagerOptions(create=self.writes, cleanup_tmp_directories=self.writes)
        if self.writes:
            kept = [policies.LatestN(n=keep)]
            if keep_best:
                best = {"get_metric_fn": _validation_loss, "reverse": True}  # the last of a falling order
                kept.append(policies.BestN(**best, n=keep_best, keep_checkpoints_without_metrics=False))
                options.best_fn = _validation_loss  # else the metrics are not written
            options.preservation_policy = policies.AnyPreservationPolicy(kept)
        self.manager = ocp.CheckpointManager(self.folder, options=options)

    def best_step(self) -> int | None:
        """The step with the smallest validation loss; None where none was measured."""
        files = {step: self.folder / str(step) / "metrics" / "metrics" for step in self.manager.all_steps()}  # Orbax's
        losses = {step: json.loads(file.read_text())[VALIDATION] for step, file in files.items() if file.is_file()}
        return min(losses, key=losses.get) if losses else None

    def latest_step(self) -> int | None:
        """The newest checkpoint's step, whole or damaged; None where there is none."""
        return self.manager.latest_step()

    def save(self, step: int, *, params, optimizer, data: dict, config: ConfigDict, validation_loss: float | None = None):
        """Starts writing in the background; a step that is there already is left as it is."""
        if step == self.latest_step():
            return
        items = ocp.args.Composite(
            params=ocp.args.StandardSave(params),
            optimizer=ocp.args.StandardSave(optimizer),
            data=ocp.args.JsonSave(data),
            config=ocp.args.JsonSave(config.to_dict()),
        )
        self.manager.save(step, args=items, metrics=None if validation_loss is None else {VALIDATION: validation_loss})

    def restore(self, step: int | None = None, **like):
        """The newest whole checkpoint: its step and a dict of the items asked for; None where there is none at all.

        Args:
            step: the one to restore, instead of the newest.
            **like: item name to a tree of `jax.ShapeDtypeStruct`s with shardings; for `data`, None.

        Raises:
            UserError: there are checkpoints, but all are damaged.
        """
        wanted = {
            name: ocp.args.JsonRestore() if tree is None else ocp.args.StandardRestore(tree) for name, tree in like.items()
        }
        steps = sorted(self.manager.all_steps(), reverse=True)
        if step is not None:
            if step not in steps:
                raise UserError(
                    f"{self.folder} has no checkpoint {step}; it has {', '.join(map(str, sorted(steps))) or 'none'}"
                )
            steps = [step]
        for step in steps:
            found, reason = None, None
            try:
                # The threads of a restore that failed print tracebacks of their own.
                with contextlib.redirect_stderr(io.StringIO()):
                    found = dict(self.manager.restore(step, args=ocp.args.Composite(**wanted)))
            except Exception as error:  # whatever a damaged file makes the readers below raise
                reason = str(error).strip().split("\n")[0][:200] or type(error).__name__
            reasons = [reason for reason in distributed.gather(reason) if reason]  # each process reads its own share
            if not reasons:
                return step, found
            if distributed.is_first():
                print(f"retune_jax: checkpoint {self.folder / str(step)} is damaged: {reasons[0]}", file=sys.stderr)
            self._set_aside(step)
        if steps:
            raise UserError(f"{self.folder}: no checkpoint can be read")
        return None

    def _set_aside(self, step: int):
        if self.writes and distributed.is_first():
            place = self.folder / f"damaged-{step}"
            shutil.rmtree(place, ignore_errors=True)  # of the same step, damaged before
            (self.folder / str(step)).rename(place)
        distributed.gather(None)  # nobody looks at the folder before that is done
        self.manager.reload()

    def wait(self):
        """Returns when all that was saved is on disk."""
        self.manager.wait_until_finished()

    def close(self):
        """Waits, and ends the background threads."""
        self.manager.close()


def _validation_loss(metrics: dict[str, float]) -> float:
    return metrics[VALIDATION]


def abstract(tree):
    """Shapes, dtypes and shardings of a tree of arrays: what `Checkpoints.restore` wants."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)


def trained(lora) -> type[nnx.Param]:
    """The kind of parameter that a run trains: the adapter's, or all where there is no adapter."""
    return nnx.Param if lora is None else LoRAParam


def load_model(
    workdir: Path, mesh: jax.sharding.Mesh, config: ConfigDict | None = None, checkpoint: str = "last"
) -> tuple[ConfigDict, Llama, Tokenizer]:
    """The model that a run has trained so far, on the mesh, with the run's configuration and tokenizer.

    Args:
        config: the run's configuration, where its base lies elsewhere now; else it is read.
        checkpoint: "last", "best" by validation loss (`config.train.keep_best`), or a step.
    """
    config = read_config(workdir) if config is None else config
    base = weights.load_base(config.base, config.model)
    check_base(workdir, base)
    lora = weights.lora_config(config.lora)
    how = {"remat": "none", "context_length": None, "quantize": config.quantize}
    model = weights.assemble(base, lora, **how, seed=config.seed, mesh=mesh, fresh=False)
    graphdef, params, rest = nnx.split(model, trained(lora), ...)  # type: ignore[misc]
    return config, nnx.merge(graphdef, _read(workdir, abstract(nnx.to_pure_dict(params)), checkpoint), rest), base.tokenizer


def load_adapter(workdir: Path) -> tuple[ConfigDict, weights.Base, LoraConfig | None, dict[str, np.ndarray]]:
    """What a run has trained so far, in host memory, and its base, still on disk.

    Returns:
        The run's configuration, its base, the adapter's configuration, and its weights by path. A run that trained all
        weights has no adapter (None, {}), and the base is what came out of it.
    """
    config = read_config(workdir)
    lora = weights.lora_config(config.lora)
    if lora is None:
        if not (workdir / BASE).is_dir():
            raise UserError(f"{workdir} trains all weights and is not at its end: there is no {BASE} yet")
        return config, weights.load_base(str(workdir / BASE), config.model), None, {}
    base = weights.load_base(config.base, config.model)
    check_base(workdir, base)
    model = nnx.eval_shape(lambda: Llama(base.shape, lora, remat="none", rngs=nnx.Rngs(0)))
    here = jax.sharding.SingleDeviceSharding(jax.local_devices(backend="cpu")[0])
    like = nnx.to_pure_dict(nnx.state(model, LoRAParam))
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), like)
    flat = traverse_util.flatten_dict(_read(workdir, like), sep="/")
    return config, base, lora, {name: np.asarray(array) for name, array in flat.items()}


def _read(workdir: Path, like, checkpoint: str = "last"):
    """The parameters in a checkpoint: "last", "best" or a step."""
    found = None
    if (workdir / CHECKPOINTS).is_dir():
        checkpoints = Checkpoints(workdir, keep=None)
        try:
            found = checkpoints.restore(_step(workdir, checkpoints, checkpoint), params=like)
        finally:
            checkpoints.close()
    if found is None:
        raise UserError(f"{workdir} has no checkpoint yet: train it first")
    return found[1]["params"]


def _step(workdir: Path, checkpoints: Checkpoints, name: str) -> int | None:
    if name == "last":
        return None
    if name == "best":
        if (step := checkpoints.best_step()) is None:
            raise UserError(f"{workdir} has no best checkpoint: train it with --config.train.keep_best=1")
        return step
    if not name.isdecimal():
        raise UserError(f"--checkpoint: {name!r} is not last, best or a step")
    return int(name)
