"""Performs a study: runs of one recipe that differ in one thing, and what they say as a table and a figure.

    python -m retune_jax.study sample_efficiency --recipe=configs/parity.py --workdir=studies/parity-samples
    python -m retune_jax.study resampling --recipe=configs/addition.py --workdir=studies/carry -- --config.train.steps=200

What stands behind `--` goes to every run. Each run is a `retune_jax.train` in a folder of its own in the workdir; the same
command again goes on where it was stopped, and a study whose runs are all there only writes its table anew. In the end the
workdir holds study.json, study.md and study.png.
"""

import dataclasses
import json
import sys
from pathlib import Path

from ml_collections import ConfigDict

from retune_jax import cli, disk, tasks
from retune_jax import config as recipes
from retune_jax.errors import UserError
from retune_jax.evaluation.accuracy import wilson
from retune_jax.processes import call

EVAL, JSON, MARKDOWN, FIGURE = "eval.json", "study.json", "study.md", "study.png"


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of a study: which curve and where on it, and what its command says otherwise than the recipe."""

    series: str
    x: float | str
    arguments: str
    overrides: tuple[str, ...] = ()

    @property
    def folder(self) -> str:
        """Its folder in the study's."""
        return f"{self.series}-{self.x}".replace(" ", "-")


@dataclasses.dataclass(frozen=True)
class Study:
    """A question, what varies along the axis, and the runs that answer it."""

    question: str
    axis: str
    runs: tuple[Run, ...]


STUDIES = {
    "sample_efficiency": Study(
        "How many distinct problems of each trained length does a method need?",
        "problems a length",
        tuple(
            Run(method, count, f"method={method}", (f"--config.data.per_length={count}",))
            for method in tasks.METHODS
            for count in (10, 30, 100, 300, 1000)
        ),
    ),
    "resampling": Study(
        "What do the paper's drops and repeats of training contexts do?",
        "training set",
        tuple(
            Run(method, name, f"method={method}", (f"--config.data.resample={name == 'resampled'}",))
            for method in tasks.METHODS
            for name in ("resampled", "each once")
        ),
    ),
}


def main(arguments: list[str]):
    """The command line."""
    if not arguments or arguments[0] not in STUDIES:
        given = f"no study is called {arguments[0]!r}" if arguments else "which study?"
        raise UserError(f"{given}; there are {', '.join(STUDIES)}")
    name, *extra = arguments
    if wrong := next((text for text in extra if not text.startswith("--")), None):
        raise UserError(f"unexpected argument {wrong!r}: behind -- come flags for every run")
    perform(STUDIES[name], RECIPE.value, disk.folder(WORKDIR.value, "--workdir"), extra)


def perform(study: Study, recipe: str, workdir: Path, extra: list[str]):
    """Makes the runs that are not there yet, and the table and the figure of all.

    Raises:
        SystemExit: with a run's own exit code when it does not end well; its message stands on stderr.
    """
    recipes_of = [f"{recipe}{',' if ':' in recipe else ':'}{run.arguments}" for run in study.runs]
    settings_of = [(*run.overrides, *extra) for run in study.runs]
    wanted_of = [*map(cli.configuration, recipes_of, settings_of)]  # a mistake in any of them is found here
    rows = []
    for number, (run, given, settings, wanted) in enumerate(zip(study.runs, recipes_of, settings_of, wanted_of), start=1):
        folder = workdir / run.folder
        print(f"retune_jax: run {number} of {len(study.runs)}: {run.series}, {study.axis} {run.x}", file=sys.stderr)
        if not counts(folder, wanted):
            flags_of_run = (f"--config={given}", f"--workdir={folder}", *settings)
            if code := call([sys.executable, "-m", "retune_jax.train", *flags_of_run]):
                sys.exit(code)
        rows.append(row(run, json.loads((folder / EVAL).read_text())))
    text = table(study, rows)
    with disk.replacing(workdir / MARKDOWN) as fresh:
        fresh.write_text(f"{study.question}\n\n{text}\n")
    with disk.replacing(workdir / FIGURE) as fresh:
        draw(study, rows, fresh)
    with disk.replacing(workdir / JSON) as fresh:
        fresh.write_text(json.dumps({"question": study.question, "axis": study.axis, "rows": rows}, indent=1) + "\n")
    print(text)


def counts(folder: Path, wanted: ConfigDict) -> bool:
    """Whether a run's folder holds the result of what is asked for; `train` goes on with one that does not, or refuses it."""
    if not (folder / EVAL).exists():
        return False
    return recipes.same_result(recipes.read_run(folder), wanted)


def row(run: Run, report: dict) -> dict:
    """A run's line of the table: accuracy with its 95% interval over all trained lengths together, and over all longer ones."""
    shortest, longest = report["trained_lengths"]
    found: dict = {"series": run.series, "x": run.x}
    for name, belongs in (("trained", lambda n: shortest <= n <= longest), ("longer", lambda n: n > longest)):
        rows = [row for row in report["rows"] if belongs(row["length"])]
        correct, problems = (sum(row[key] for row in rows) for key in ("correct", "problems"))
        if problems:
            low, high = wilson(correct, problems)
            found[name] = {"correct": correct, "problems": problems, "accuracy": correct / problems, "low": low, "high": high}
    return found


def table(study: Study, rows: list[dict]) -> str:
    """The rows in Markdown."""
    lines = [f"| method | {study.axis} | trained lengths | longer |", "|---|---|---|---|"]
    for found in rows:
        cells = (_cell(found.get(name)) for name in ("trained", "longer"))
        lines.append(f"| {found['series']} | {found['x']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(share: dict | None) -> str:
    return f"{share['accuracy']:.3f} ({share['low']:.3f} - {share['high']:.3f})" if share else "-"


def draw(study: Study, rows: list[dict], path: Path):
    """Accuracy along the axis, a curve a series: on trained lengths and on longer ones."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from retune_jax.evaluation.figure import COLOURS

    figure = Figure(figsize=(8, 3.4), dpi=150, layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, name in zip(panels, ("trained", "longer")):
        for series in dict.fromkeys(found["series"] for found in rows):
            points = [(found["x"], found[name]) for found in rows if found["series"] == series and name in found]
            if points:
                places, shares = zip(*points)
                values = [share["accuracy"] for share in shares]
                below = [share["accuracy"] - share["low"] for share in shares]
                above = [share["high"] - share["accuracy"] for share in shares]
                style = {"marker": ".", "lw": 1.4, "capsize": 2, "color": COLOURS.get(series), "label": series}
                axes.errorbar(places, values, yerr=(below, above), **style)
        if all(not isinstance(found["x"], str) for found in rows):
            axes.set_xscale("log")
        axes.set(xlabel=study.axis, ylim=(-0.03, 1.03))
        axes.set_title("trained lengths" if name == "trained" else "longer problems", loc="left", fontsize=10)
        axes.grid(axis="y", color="#dddddd", lw=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("accuracy")
    panels[0].legend(frameon=False, fontsize=8)
    FigureCanvasAgg(figure).print_png(path)


if __name__ == "__main__":
    from absl import flags

    RECIPE = flags.DEFINE_string("recipe", None, "The config file of all runs.", required=True)
    WORKDIR = flags.DEFINE_string("workdir", None, "The study's folder.", required=True)
    cli.run(main)
