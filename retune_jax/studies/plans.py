"""Which runs answer which question.

A study is a list of runs of one recipe. Each says otherwise than the recipe in one thing, by config arguments or overrides; and
which curve of the figure it belongs to (`series`), and where on it (`x`).
"""

import dataclasses
from collections.abc import Callable

from ml_collections import ConfigDict

from retune_jax import config as recipes
from retune_jax import tasks
from retune_jax.tasks import Task


@dataclasses.dataclass(frozen=True)
class Run:
    """One training run of a study.

    Attributes:
        series: which curve, and which line of the table.
        x: where on it.
        arguments: config arguments, such as "method=retune".
        overrides: flags of its command, such as "--config.data.per_length=10".
        wordings: where not empty, the run is evaluated in each of these, and they are the places on its curve.
    """

    series: str
    x: float | str
    arguments: str
    overrides: tuple[str, ...] = ()
    wordings: tuple[str, ...] = ()

    @property
    def folder(self) -> str:
        """Its folder in the study's."""
        return f"{self.series}-{self.x}".replace(" ", "-") if self.x != "" else self.series.replace(" ", "-")


@dataclasses.dataclass(frozen=True)
class Study:
    """A question and the runs that answer it.

    Attributes:
        question: what is asked.
        series: what the curves are.
        axis: what varies along them.
        runs: the runs for a task.
        quick: fewer of them.
        by_length: the figure shows accuracy by length, a curve a run, instead of pooled accuracy along the axis.
    """

    question: str
    series: str
    axis: str
    runs: Callable[[Task], tuple[Run, ...]]
    quick: Callable[[Task], tuple[Run, ...]]
    by_length: bool = False


def _samples(counts: tuple[int, ...]) -> tuple[Run, ...]:
    return tuple(
        Run(method, count, f"method={method}", (f"--config.data.per_length={count}",))
        for method in tasks.METHODS
        for count in counts
    )


def _resampled(methods: tuple[str, ...]) -> tuple[Run, ...]:
    return tuple(
        Run(method, name, f"method={method}", (f"--config.data.resample={name == 'resampled'}",))
        for method in methods
        for name in ("resampled", "each once")
    )


def _worded(trained: list[str], asked: list[str]) -> tuple[Run, ...]:
    return tuple(
        Run(f"trained on {name}", "", "method=retune", (f"--config.data.wording={name}",), tuple(asked)) for name in trained
    )


def _ablations(task: Task) -> tuple[Run, ...]:
    parts = {"retune": "nothing", "no_isolation": "isolation", "no_carry": "carry-over"}
    return tuple(Run(method, part, f"method={method}") for method, part in parts.items())


STUDIES = {
    "sample_efficiency": Study(
        "How many distinct problems of each trained length does a method need?",
        "method",
        "problems a length",
        runs=lambda task: _samples((10, 30, 100, 300, 1000)),
        quick=lambda task: _samples((10, 100)),
    ),
    "prompts": Study(
        "Does it matter in which words problems are asked?",
        "training",
        "asked in",
        runs=lambda task: _worded([*tasks.wording_names(task), tasks.ALL], tasks.wording_names(task)),
        quick=lambda task: _worded([tasks.PAPER, tasks.ALL], tasks.wording_names(task)),
    ),
    "ablations": Study(
        "What do isolating subproblems and carrying their values over contribute?",
        "method",
        "left out",
        runs=_ablations,
        quick=_ablations,
        by_length=True,
    ),
    "resampling": Study(
        "What do the drops and repeats of training contexts do?",
        "method",
        "training set",
        runs=lambda task: _resampled(tasks.METHODS),
        quick=lambda task: _resampled(("retune", "scratchpad")),
    ),
}

QUICK_STEPS = 60


def shrink(config: ConfigDict, devices: int):
    """Makes a run small enough to see a whole study within minutes: few steps of few rows, and few problems of four lengths.

    Args:
        config: changed in place.
        devices: how many the rows have to be shared by.
    """
    task = tasks.get(config.task)
    shortest, longest = task.trained_lengths
    asked = recipes.read_lengths(config.eval.lengths)
    wanted = {shortest, (shortest + longest) // 2, longest, (3 * longest + 1) // 2}
    with config.unlocked():
        config.train.steps = QUICK_STEPS
        micro = devices * -(-2 // devices)  # at least 2 rows, equally many on each device
        config.train.rows = min(config.train.rows, config.train.accumulate * micro)
        config.train.warmup = min(config.train.warmup, QUICK_STEPS // 4)
        config.data.scale = min(config.data.scale, 0.02) if config.data.scale < 1 else config.data.scale
        config.eval.lengths = ",".join(map(str, sorted(wanted & set(asked)) or asked[:1]))
        config.eval.problems_per_length = 10
