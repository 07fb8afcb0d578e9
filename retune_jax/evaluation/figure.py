"""accuracy.png: accuracy by length, one curve a report, with its 95% intervals and the trained lengths shaded.

Every evaluation draws its own. Several runs go into one figure, a panel a task, by

    python -m retune_jax.evaluation.figure --output=parity.png --workdirs=runs/parity-retune-tiny,runs/parity-baseline-tiny
    python -m retune_jax.evaluation.figure --output=docs/results.png \\
        --workdirs=$(ls -d runs/{parity,addition,dynamic_programming}-{retune,scratchpad,baseline}-tiny | paste -sd,)
"""

import json
from collections.abc import Sequence
from pathlib import Path

from retune_jax import cli, disk
from retune_jax.errors import UserError

COLOURS = {
    "retune": "#1b6ca8",
    "scratchpad": "#d1802b",
    "baseline": "#7a7a7a",
    "no_isolation": "#8b5fa8",
    "no_carry": "#b23a48",
}


def draw(reports: Sequence[dict], path: Path):
    """Draws reports (the contents of eval.json files) into a PNG, a panel for each task in the order of their first reports."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    tasks = list(dict.fromkeys(report["task"] for report in reports))
    width = 7 if len(tasks) == 1 else 1 + 3.6 * len(tasks)
    figure = Figure(figsize=(width, 3.6), dpi=150, layout="constrained")
    panels = figure.subplots(1, len(tasks), sharey=True, squeeze=False)[0]
    for axes, task in zip(panels, tasks):
        _panel(axes, [report for report in reports if report["task"] == task])
    panels[0].set_ylabel("accuracy")
    handles = dict(pair[::-1] for axes in panels for pair in zip(*axes.get_legend_handles_labels()))
    if len(tasks) == 1:
        panels[0].legend(frameon=False, loc="lower left")
    else:
        figure.legend(handles.values(), handles, frameon=False, loc="outside lower center", ncols=len(handles))
    FigureCanvasAgg(figure).print_png(path)


def _panel(axes, reports: Sequence[dict]):
    """The curves of one task."""
    shortest, longest = reports[0]["trained_lengths"]
    axes.axvspan(shortest - 0.5, longest + 0.5, color="#1b6ca8", alpha=0.08, lw=0)
    for report in reports:
        rows = report["rows"]
        lengths = [row["length"] for row in rows]
        colour = COLOURS.get(report["method"])
        axes.fill_between(lengths, [row["low"] for row in rows], [row["high"] for row in rows], color=colour, alpha=0.18, lw=0)
        axes.plot(lengths, [row["accuracy"] for row in rows], color=colour, marker=".", ms=4, lw=1.4, label=report["method"])
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set(xlabel="length of the problem (shaded: trained)", ylim=(-0.03, 1.03))
    axes.set_title(reports[0]["task"].replace("_", " "), loc="left", fontsize=11)
    axes.grid(axis="y", color="#dddddd", lw=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def main(arguments: list[str]):
    """The command line."""
    cli.no_arguments(arguments)
    reports = [_read(disk.folder(workdir, "--workdirs") / "eval.json") for workdir in WORKDIRS.value]
    try:
        with disk.replacing(disk.folder(OUTPUT.value, "--output")) as fresh:
            draw(reports, fresh)
    except OSError as error:
        raise UserError(f"--output: {OUTPUT.value} cannot be written: {error.strerror}") from error


def _read(path: Path) -> dict:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error


if __name__ == "__main__":
    from absl import flags

    WORKDIRS = flags.DEFINE_list("workdirs", None, "Folders of evaluated runs.", required=True)
    OUTPUT = flags.DEFINE_string("output", None, "The PNG to write.", required=True)
    cli.run(main)
