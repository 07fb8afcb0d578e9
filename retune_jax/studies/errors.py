"""The study of errors: how problems end and where mistakes begin, by length and method, in runs that were evaluated.

Nothing is trained or decoded: every eval.json says of each length how many problems ended with which status, and for those
that ended in order whether the first mistake of the call tree was a call for the wrong subproblem or a wrong computation, and
whether the answer was right in spite of it (`repaired`). See evaluation/errors.py for how a mistake is found.
"""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from retune_jax.errors import UserError
from retune_jax.evaluation.errors import REPAIRED, WRONG_CALL, WRONG_COMPUTATION
from retune_jax.protocol import STATUSES
from retune_jax.studies import tables

RIGHT = "right"
CLASSES = (RIGHT, REPAIRED, WRONG_CALL, WRONG_COMPUTATION, *(status for status in STATUSES if status != "ok"))
COLOURS = dict(zip(CLASSES, ("#1b6ca8", "#7fb2d6", "#d1802b", "#b23a48"))) | dict(
    zip(CLASSES[4:], ("#4a4a4a", "#6a6a6a", "#8a8a8a", "#a5a5a5", "#bcbcbc", "#cfcfcf", "#e0e0e0"))
)
EVAL = "eval.json"
QUESTION = "Where do solutions go wrong: a wrong call, a wrong computation, or no end at all?"


def read(folders: Sequence[Path]) -> list[dict]:
    """The reports of evaluated runs, each with its folder's name under "run". Raises UserError."""
    reports = []
    for folder in folders:
        try:
            report = json.loads((folder / EVAL).read_text())
            reports.append({"run": folder.name, **{key: report[key] for key in ("task", "method", "trained_lengths", "rows")}})
        except (OSError, ValueError, KeyError) as error:
            why = f"it has no {error}" if isinstance(error, KeyError) else getattr(error, "strerror", None) or error
            raise UserError(f"{folder / EVAL} cannot be read: {why}") from error
    return reports


def counted(row: dict) -> dict[str, int]:
    """How many problems of a row of eval.json belong to each class; together they are all of them."""
    errors = row["errors"]
    counts = {name: errors.get(name, 0) for name in CLASSES if name != RIGHT}
    return {RIGHT: row["correct"] - counts[REPAIRED], **counts}


def perform(folders: Sequence[Path], workdir: Path, *, command: str) -> str:
    """Writes the study of these runs into `workdir`, which exists, and returns its Markdown."""
    reports = read(folders)
    rows = [
        {"run": report["run"], "task": report["task"], "method": report["method"], "length": row["length"], **counted(row)}
        for report in reports
        for row in report["rows"]
    ]
    used = [name for name in CLASSES if any(row[name] for row in rows)]
    parts = [f"**{QUESTION}**", f"`{command}`", _pooled(reports, used), _by_length(rows, used)]
    draw(reports, used, workdir / tables.FIGURE)
    return tables.save(workdir, "\n\n".join(parts), {"question": QUESTION, "command": command, "rows": rows})


def _pooled(reports: Sequence[dict], used: Sequence[str]) -> str:
    lines = [f"| run | task | method | lengths | problems | {' | '.join(used)} |", "|---" * (5 + len(used)) + "|"]
    for report in reports:
        for name, rows in tables.spans(report).items():
            total: Counter[str] = Counter()
            for row in rows:
                total.update(counted(row))
            if rows:
                cells = " | ".join(str(total[one]) for one in used)
                lines.append(
                    f"| {report['run']} | {report['task']} | {report['method']} | {name} | {total.total()} | {cells} |"
                )
    return "\n".join(lines)


def _by_length(rows: Sequence[dict], used: Sequence[str]) -> str:
    lines = [f"| run | length | {' | '.join(used)} |", "|---" * (2 + len(used)) + "|"]
    lines += [f"| {row['run']} | {row['length']} | {' | '.join(str(row[name]) for name in used)} |" for row in rows]
    return "\n".join(lines)


def draw(reports: Sequence[dict], used: Sequence[str], path: Path):
    """A panel a run: the share of problems of each class, by length."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    across = min(3, len(reports))
    down = -(-len(reports) // across)
    figure = Figure(figsize=(1.2 + 3.2 * across, 0.6 + 2.4 * down), dpi=150, layout="constrained")
    panels = figure.subplots(down, across, squeeze=False, sharey=True).ravel()
    for axes, report in zip(panels, reports):
        lengths = [str(row["length"]) for row in report["rows"]]
        below = [0.0] * len(lengths)
        for name in used:
            shares = [counted(row)[name] / row["problems"] for row in report["rows"]]
            axes.bar(lengths, shares, bottom=below, color=COLOURS[name], label=name, width=1.0, lw=0)
            below = [one + more for one, more in zip(below, shares)]
        beyond = [i for i, row in enumerate(report["rows"]) if row["length"] > report["trained_lengths"][1]]
        if beyond and beyond[0]:
            axes.axvline(beyond[0] - 0.5, color="#222222", lw=0.8, ls=":")
        axes.set_title(f"{report['task']} {report['method']}".replace("_", " "), loc="left", fontsize=9)
        axes.set(xlabel="length (trained left of the dots)", ylim=(0, 1))
        axes.set_xticks(range(0, len(lengths), max(1, len(lengths) // 6)))
        axes.spines[["top", "right"]].set_visible(False)
    for axes in panels[len(reports) :]:
        axes.set_visible(False)
    panels[0].set_ylabel("share of problems")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, fontsize=8, loc="outside right upper")
    FigureCanvasAgg(figure).print_png(path)
