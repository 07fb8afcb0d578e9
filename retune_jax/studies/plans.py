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

# Of Re-Tuning's recipe, what a study of the tiny model takes: of the steps, and of the tokens a step when it is quick.
SHARE_OF_STEPS, QUICK_STEPS, QUICK_SHARE_OF_TOKENS = 2 / 3, 200, 1 / 2
LENGTHS, QUICK_LENGTHS = (1 / 3, 2 / 3, 1, 4 / 3, 5 / 3), (1 / 2, 1, 4 / 3)  # asked, relative to the longest that is trained
PROBLEMS, QUICK_PROBLEMS = 50, 10  # of each


def fit(config: ConfigDict, like: ConfigDict, *, devices: int, quick: bool):
    """Makes runs of all methods alike, so that a study compares nothing but what it varies.

    Every run has Re-Tuning's steps, learning rates and tokens a step, and trains on the task alone: what recipes replay of the
    base's own text, and only for methods with calls, is left out. Recipes of the tiny model are made smaller besides, so that
    a study takes minutes, not hours: two thirds of the steps, on at most a tenth of the paper's training set, and 50 problems
    of five lengths, of which the longest is 5/3 of what was trained. A quick study asks 10 of three, and has fewer runs.

    Args:
        config: the recipe for the run's method; changed in place.
        like: the recipe for Re-Tuning.
        devices: how many the rows have to be shared by.
        quick: makes any recipe small, whatever its model.
    """
    small = quick or config.model.startswith("tiny")
    with config.unlocked():
        unit = config.train.accumulate * devices  # so that each device has equally many rows of each micro-batch
        tokens = like.train.rows * like.data.sequence_length * (QUICK_SHARE_OF_TOKENS if quick else 1)
        config.train.update({key: value for key, value in like.train.items() if key not in ("rows", "accumulate")})
        config.train.rows = unit * max(1, int(tokens / config.data.sequence_length / unit))
        config.data.update({"replay": 0.0, "replay_after": 0, "gaps": 0})
        if small:
            steps = QUICK_STEPS if quick else max(1, round(like.train.steps * SHARE_OF_STEPS))
            config.train.update({"steps": steps, "warmup": min(config.train.warmup, steps // 4)})
            if config.data.scale < 1:
                config.data.scale = min(config.data.scale, 0.02 if quick else 0.1)
            config.eval.lengths = _lengths(config, QUICK_LENGTHS if quick else LENGTHS)
            config.eval.problems_per_length = QUICK_PROBLEMS if quick else PROBLEMS
        if quick:
            asked = len(recipes.read_lengths(config.eval.lengths)) * QUICK_PROBLEMS
            config.decode.slots = devices * -(-min(config.decode.slots, asked) // devices)  # none stands empty


def _lengths(config: ConfigDict, shares: tuple[float, ...]) -> str:
    """Those of the recipe's lengths that have these shares of the longest trained one; its first where it has none of them."""
    shortest, longest = tasks.get(config.task).trained_lengths
    asked = recipes.read_lengths(config.eval.lengths)
    wanted = {max(shortest, round(share * longest)) for share in shares}
    return ",".join(map(str, sorted(wanted & set(asked)) or asked[:1]))
