"""Makes a study's runs, one after the other, in this process.

In one process nothing is imported or compiled twice: runs of the same method and shape share their compiled programs, all runs
share the prepared data sets of the same name, and a signal reaches the run itself, which saves a checkpoint and ends. A run is
an ordinary one, in a folder of its own; the same command again goes on where it was stopped.

What the time went to is measured: `Seconds` sets training steps and evaluation apart from what has to be done around them
(loading, tracing, compiling, writing data).
"""

import contextlib
import dataclasses
import functools
import io
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict

from retune_jax import cli, config_file, disk
from retune_jax import config as recipes
from retune_jax.errors import UserError
from retune_jax.studies.plans import Run, Study, fit

SECONDS = "seconds.json"  # in a run's folder


def configuration(recipe: str, run_arguments: str, overrides: Sequence[str], *, quick: bool) -> ConfigDict:
    """The configuration of a run: what `train` would use for `--config=RECIPE:ARGUMENTS OVERRIDES`, fitted to a study.

    Args:
        recipe: a config file, perhaps with arguments of its own behind a colon; those of the run come after them.
        run_arguments: config arguments of the run.
        overrides: `--config.KEY=VALUE` flags.
        quick: make it small, before the overrides.

    Raises:
        UserError: a file that is none, or a flag that the configuration does not have.
    """
    from retune_jax.models import sharding

    separator = "," if ":" in recipe else ":"
    config = cli.configuration(f"{recipe}{separator}{run_arguments}" if run_arguments else recipe, [])
    if config.task == recipes.PRETRAINING:
        raise UserError(f"--recipe: {recipe} makes a base model; a study is of a task")
    mesh = sharding.make_mesh(config.mesh.data, config.mesh.fsdp, config.mesh.tensor)
    like = cli.configuration(f"{recipe}{separator}method=retune", [])
    fit(config, like, devices=mesh.shape["data"] * mesh.shape["fsdp"], quick=quick)
    cli.override(config, list(overrides), parts=tuple(config))
    return config


def counts(folder: Path, wanted: ConfigDict) -> bool:
    """Whether a run's folder holds the result of what is asked for."""
    from retune_jax.checkpoints.runs import EVAL

    return (folder / EVAL).exists() and config_file.same_result(config_file.read_run(folder), wanted)


@dataclasses.dataclass
class Seconds:
    """What a run's time went to; `total` has the rest in it: loading, tracing, compiling, preparing data, saving."""

    total: float = 0.0
    steps: float = 0.0
    evaluation: float = 0.0

    @classmethod
    def read(cls, folder: Path) -> "Seconds":
        """What was noted of a run before; all 0 where nothing was."""
        try:
            return cls(**json.loads((folder / SECONDS).read_text()))
        except (OSError, ValueError, TypeError):
            return cls()

    def __add__(self, other: "Seconds") -> "Seconds":
        return Seconds(self.total + other.total, self.steps + other.steps, self.evaluation + other.evaluation)

    @property
    def around(self) -> float:
        """The share that was neither training steps nor evaluation."""
        return 1 - (self.steps + self.evaluation) / self.total if self.total else 0.0


def perform(
    study: Study, runs: Sequence[Run], workdir: Path, *, recipe: str, overrides: Sequence[str], quick: bool
) -> tuple[list[dict], list[ConfigDict], Seconds]:
    """Makes the runs that are not there yet.

    Args:
        study, runs: what is asked, and by which runs.
        workdir: the study's folder.
        recipe, overrides, quick: of all runs, as in `configuration`.

    Returns:
        For each place on each curve {"series", "x", "report"}, the last the contents of an eval.json; the runs' configurations;
        and where the time went.

    Raises:
        UserError: a folder holds another run than is asked for, or as any run does. Every folder is looked at first.
        SystemExit: as a run that was stopped, or whose loss is no longer a number.
    """
    from retune_jax.checkpoints.runs import EVAL, check

    configs = [configuration(recipe, run.arguments, [*run.overrides, *overrides], quick=quick) for run in runs]
    folders = [workdir / run.folder for run in runs]
    for folder, config in zip(folders, configs):
        recipes.validate(config)
        check(folder, config)
    found, spent = [], Seconds()
    for number, (run, config, folder) in enumerate(zip(runs, configs, folders), start=1):
        where = f", {study.axis} {run.x}" if run.x != "" else ""
        print(f"retune_jax: run {number} of {len(runs)}: {run.series}{where}", file=sys.stderr)
        if not counts(folder, config):
            _train(config, folder)
        places: dict[float | str, Path] = {name: _asked(folder, config, name) for name in run.wordings} or {run.x: folder}
        for x, place in places.items():
            found.append({"series": run.series, "x": x, "report": json.loads((place / EVAL).read_text())})
        spent += Seconds.read(folder)
    return found, configs, spent


def _train(config: ConfigDict, folder: Path):
    from retune_jax.checkpoints import runs
    from retune_jax.training import loop

    clock = _Clock()
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # the run's own table
            loop.train(config, folder)
    finally:
        if folder.is_dir():
            lines = _lines(folder / runs.METRICS, since=clock.started)
            seconds = clock.seconds(lines)
            if not lines and counts(folder, config):  # it had all its steps before
                seconds.evaluation = max(0.0, _decoding(folder) - clock.compiling(clock.started))
            elif not lines or lines[-1]["step"] < config.train.steps:  # stopped before its evaluation
                seconds.evaluation = 0.0
            _note(folder, seconds)


def _decoding(folder: Path) -> float:
    """What the evaluation in this folder took, compilation included."""
    from retune_jax.evaluation import samples

    return json.loads((folder / samples.FILE).read_text())["facts"]["seconds"]


def _asked(folder: Path, config: ConfigDict, wording: str) -> Path:
    """The folder with the results of a run when it is asked in this wording."""
    from retune_jax.checkpoints import runs
    from retune_jax.evaluation.run import evaluate, evaluated
    from retune_jax.models import sharding

    if wording == config.eval.wording:
        return folder
    place, other = folder / f"asked-{wording}", config.copy_and_resolve_references()
    with other.unlocked():
        other.eval.wording = wording
    if not evaluated(place, other):
        clock = _Clock()
        mesh = sharding.fitting_mesh(config.mesh.data, config.mesh.fsdp, config.mesh.tensor)
        _, model, tokenizer = runs.load_model(folder, mesh)
        disk.claim(place)
        clock.mark()
        with runs.hold(place), contextlib.redirect_stdout(io.StringIO()):
            evaluate(workdir=place, config=other, model=model, tokenizer=tokenizer)
        _note(folder, clock.seconds([]))
    return place


@functools.cache
def _compilations() -> list[tuple[float, float]]:
    """(When it ended, seconds) of all that this process traces and compiles from the first call on."""
    import jax

    heard = []

    def hear(event: str, duration_secs: float, **_: str | int) -> None:
        if event.startswith("/jax/core/compile/"):
            heard.append((time.time(), duration_secs))

    jax.monitoring.register_event_duration_secs_listener(hear)
    return heard


class _Clock:
    """Tells what the time of a run went to, from the run's own metrics and what JAX says of its compilations."""

    def __init__(self):
        self.compilations = _compilations()
        self.started, self.marked = time.time(), None

    def mark(self):
        """Says that what follows is the evaluation."""
        self.marked = time.time()

    def seconds(self, lines: list[dict]) -> Seconds:
        """What the time since the start went to; `lines` are those of metrics.jsonl since then."""
        now = time.time()
        steps = 0.0
        if len(lines) > 1:  # the first line comes when the first step is done
            first, last = lines[0], lines[-1]
            steps = (last["time"] - first["time"]) * (1 + 1 / (last["step"] - first["step"]))
        begins = self.marked or (lines[-1]["time"] if lines else now)
        return Seconds(now - self.started, steps, max(0.0, now - begins - self.compiling(begins)))

    def compiling(self, since: float) -> float:
        """The seconds that tracing and compiling have taken since then."""
        return sum(seconds for ended, seconds in self.compilations if ended > since)


def _lines(path: Path, since: float) -> list[dict]:
    """The lines of metrics.jsonl that were written since then."""
    try:
        lines = [json.loads(line) for line in path.read_text().splitlines()]
    except (OSError, ValueError):
        return []
    return [line for line in lines if line["time"] >= since]


def _note(folder: Path, seconds: Seconds):
    total = Seconds.read(folder) + seconds
    with disk.replacing(folder / SECONDS) as fresh:
        fresh.write_text(json.dumps(dataclasses.asdict(total)) + "\n")
