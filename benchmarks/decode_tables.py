"""What decode.py has measured, as Markdown and as a picture of growth."""

from collections.abc import Sequence
from pathlib import Path

COLOURS = {
    "decoder": "#1b6ca8",
    "decoder, memo": "#5fa8d3",
    "level by level, kept": "#d1802b",
    "level by level": "#b23a48",
    "one by one": "#7a7a7a",
}


def table(case: dict) -> str:
    """A case as Markdown."""
    statuses = ", ".join(f"{status} {count}" for status, count in case["statuses"].items())
    tokens = sum(case["tokens"]) / len(case["tokens"])
    lines = [
        f"**{case['task'].replace('_', ' ')} of length {case['length']}, {case['problems']} problems** ({statuses}; "
        f"{case['right']} right; {tokens:.0f} generated tokens a problem; {case['device']})",
        "",
        "| | problems/s | generated tokens/s | decoder's speed | share of product rate | seconds (fastest - slowest of n) "
        "| processor s | same text |",
        "|---|---|---|---|---|---|---|---|",
    ]
    ours = case["rows"].get("decoder")
    for name, row in case["rows"].items():
        seconds = row["seconds"]
        spread = f"{seconds['median']:.2f} ({seconds['fastest']:.2f} - {seconds['slowest']:.2f} of {seconds['runs']})"
        rates = f"{row['problems_per_second']:.2f} | {row['tokens_per_second']:.0f}"
        times = f"{ours['problems_per_second'] / row['problems_per_second']:.1f} x" if ours else ""
        same = f"{row['processor_seconds']:.2f} | {row['same_text']} of {row['problems']}"
        lines.append(f"| {name} | {rates} | {times} | {row['share']:.0%} | {spread} | {same} |")
    return "\n".join(lines) + "\n"


def series(cases: Sequence[dict], along: str) -> dict[str, list[tuple[int, float]]]:
    """Way to (`along`, tokens a processor second), the best of several batches."""
    found: dict[str, list[tuple[int, float]]] = {}
    for case in sorted(cases, key=lambda case: int(case[along])):
        best: dict[str, float] = {}
        for name, row in case["rows"].items():
            way = name.rpartition(", ")[0] if name.endswith("a batch") else name
            if way in COLOURS:
                tokens = row["tokens_per_second"] * row["seconds"]["median"]
                best[way] = max(best.get(way, 0), tokens / row["processor_seconds"])
        for way, rate in best.items():
            found.setdefault(way, []).append((int(case[along]), rate))
    return found


def groups(cases: Sequence[dict], along: str, same: str) -> list[list[dict]]:
    """The cases that differ in nothing but `along`, of at least three values, in groups."""
    found: dict[tuple, list[dict]] = {}
    for case in cases:
        if str(case["length"]).isdecimal():
            found.setdefault((case["task"], case[same]), []).append(case)
    return [group for group in found.values() if len(group) > 2]


def growth(cases: Sequence[dict], path: Path):
    """Draws speed over the number of problems and over their length, a panel each; nothing where there is too little.

    Processor seconds, because other work on the machine changes them least.
    """
    panels = [(group, "problems") for group in groups(cases, "problems", "length")]
    panels += [(group, "length") for group in groups(cases, "length", "problems")]
    if not panels:
        return
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1 + 3.6 * len(panels), 3.6), dpi=150, layout="constrained")
    row = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (group, along) in zip(row, panels):
        for way, points in series(group, along).items():
            axes.plot(*zip(*points), color=COLOURS[way], marker=".", ms=6, lw=1.4, label=way)
        axes.set(xscale="log" if along == "problems" else "linear", yscale="log", xlabel=along)
        task, same = group[0]["task"].replace("_", " "), "length" if along == "problems" else "problems"
        what = f"{task} of length {group[0][same]}" if same == "length" else f"{task}, {group[0][same]} problems"
        axes.set_title(what, loc="left", fontsize=11)
        if along == "length":
            axes.set_xlabel("digits" if task == "addition" else "length")
        axes.grid(axis="y", color="#dddddd", lw=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    row[0].set_ylabel("generated tokens a processor second")
    handles = dict(pair[::-1] for axes in row for pair in zip(*axes.get_legend_handles_labels()))
    figure.legend(handles.values(), handles, frameon=False, loc="outside lower center", ncols=len(handles))
    FigureCanvasAgg(figure).print_png(path)
