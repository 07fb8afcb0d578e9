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
MORE_COLOURS = ("#1b6ca8", "#d1802b", "#4f9d69", "#b23a48", "#8b5fa8", "#7a7a7a")  # of series that are no methods


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
    """Accuracy along the axis, on trained lengths and on longer ones: a curve a series over numbers, bars over names."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.4), dpi=150, layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    places = list(dict.fromkeys(found["x"] for found in rows))
    series = list(dict.fromkeys(found["series"] for found in rows))
    for axes, name in zip(panels, SPANS):
        for number, one in enumerate(series):
            points = [(found["x"], found[name]) for found in rows if found["series"] == one and name in found]
            if not points:
                continue
            values = [share["accuracy"] for _, share in points]
            spread = [[share["accuracy"] - share["low"] for _, share in points]]
            spread += [[share["high"] - share["accuracy"] for _, share in points]]
            style = {"color": by_length.COLOURS.get(one, MORE_COLOURS[number % len(MORE_COLOURS)]), "label": one}
            if _numbers(places):
                axes.errorbar([x for x, _ in points], values, yerr=spread, marker=".", lw=1.4, capsize=2, **style)
            else:
                width = 0.8 / len(series)
                middles = [places.index(x) + (number - (len(series) - 1) / 2) * width for x, _ in points]
                bars = {"ecolor": "#333333", "error_kw": {"lw": 0.8, "capsize": 1.5}}
                axes.bar(middles, values, 0.92 * width, yerr=spread, **style, **bars)
        if _numbers(places):
            axes.set_xscale("log")
            axes.minorticks_off()
            axes.set_xlim(0.8 * min(places), 1.25 * max(places))
        axes.set_xticks(places if _numbers(places) else range(len(places)), list(map(str, places)))
        axes.set(xlabel=axis, ylim=(-0.03 if _numbers(places) else 0, 1.03))
        axes.set_title("trained lengths" if name == "trained" else "longer problems", loc="left", fontsize=10)
        axes.grid(axis="y", color="#dddddd", lw=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("accuracy")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, fontsize=8, loc="outside lower center", ncols=len(labels))
    FigureCanvasAgg(figure).print_png(path)


def _numbers(places: Sequence) -> bool:
    return all(not isinstance(x, str) for x in places)
