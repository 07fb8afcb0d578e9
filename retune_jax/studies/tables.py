"""What a study says: study.json, study.md and study.png.

A line of the table is a place on a curve: accuracy with its 95% interval over all trained lengths together, and over all longer
ones that were evaluated.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from retune_jax import disk
from retune_jax.evaluation import figure as by_length
from retune_jax.evaluation.accuracy import wilson
from retune_jax.studies.plans import Study

JSON, MARKDOWN, FIGURE = "study.json", "study.md", "study.png"
SPANS = ("trained", "longer")


def spans(report: dict) -> dict[str, list[dict]]:
    """The rows of an eval.json: those of trained lengths, and those of longer ones."""
    shortest, longest = report["trained_lengths"]
    trained = [row for row in report["rows"] if shortest <= row["length"] <= longest]
    return dict(zip(SPANS, (trained, [row for row in report["rows"] if row["length"] > longest])))


def row(series: str, x, report: dict) -> dict:
    """A line of the table, from the contents of an eval.json."""
    found: dict = {"series": series, "x": x}
    for name, rows in spans(report).items():
        correct, problems = (sum(row[key] for row in rows) for key in ("correct", "problems"))
        if problems:
            low, high = wilson(correct, problems)
            lengths = [row["length"] for row in rows]
            found[name] = {"correct": correct, "problems": problems, "accuracy": correct / problems, "low": low, "high": high}
            found[name] |= {"lengths": [min(lengths), max(lengths)]}
    return found


def table(series: str, axis: str, rows: Sequence[dict]) -> str:
    """The lines in Markdown."""
    lines = [f"| {series} | {axis} | trained lengths | longer |", "|---|---|---|---|"]
    for found in rows:
        cells = (_cell(found.get(name)) for name in SPANS)
        lines.append(f"| {found['series']} | {found['x']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(share: dict | None) -> str:
    return f"{share['accuracy']:.3f} ({share['low']:.3f} - {share['high']:.3f})" if share else "-"


def write(workdir: Path, study: Study, found: Sequence[dict], facts: dict, notes: Sequence[str]) -> str:
    """Writes the three files, study.json last, and returns the Markdown.

    Args:
        workdir: the study's folder.
        study: what was asked.
        found: {"series", "x", "report"} for each place.
        facts: what else study.json says.
        notes: lines that stand above the table.
    """
    rows = [row(**one) for one in found]
    text = "\n\n".join([f"**{study.question}**", *notes, table(study.series, study.axis, rows)])
    if study.by_length:
        by_length.draw([one["report"] for one in found], workdir / FIGURE)
    else:
        draw(study.axis, rows, workdir / FIGURE)
    return save(workdir, text, {"question": study.question, "axis": study.axis, **facts, "rows": rows})


def save(workdir: Path, text: str, facts: dict) -> str:
    """Writes study.md and study.json, each whole or not at all, and returns the text."""
    for name, content in ((MARKDOWN, text), (JSON, json.dumps(facts, indent=1))):
        with disk.replacing(workdir / name) as fresh:
            fresh.write_text(content + "\n")
    return text


def draw(axis: str, rows: Sequence[dict], path: Path):
    """Accuracy along the axis, a curve a series: on trained lengths and on longer ones."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.4), dpi=150, layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, name in zip(panels, SPANS):
        for series in dict.fromkeys(found["series"] for found in rows):
            points = [(found["x"], found[name]) for found in rows if found["series"] == series and name in found]
            if points:
                places, shares = zip(*points)
                values = [share["accuracy"] for share in shares]
                below = [share["accuracy"] - share["low"] for share in shares]
                above = [share["high"] - share["accuracy"] for share in shares]
                style = {"marker": ".", "lw": 1.4, "capsize": 2, "color": by_length.COLOURS.get(series), "label": series}
                axes.errorbar(places, values, yerr=(below, above), **style)
        if all(not isinstance(found["x"], str) for found in rows):
            axes.set_xscale("log")
        axes.set(xlabel=axis, ylim=(-0.03, 1.03))
        axes.set_title("trained lengths" if name == "trained" else "longer problems", loc="left", fontsize=10)
        axes.grid(axis="y", color="#dddddd", lw=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("accuracy")
    panels[0].legend(frameon=False, fontsize=8)
    FigureCanvasAgg(figure).print_png(path)
