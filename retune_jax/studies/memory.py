"""The study of memory: what a training step takes, by model, base, method and length. Nothing is trained.

Two questions, answered by `training/memory.py` from compiled programs with abstract weights. Without a recipe: what does the
paper's recipe need on one device, with the base in bfloat16, int8 and NF4? With one: what does each method need for problems
of each length, and how many tokens does it train a problem with? Re-Tuning's contexts grow by one item's text with the
length; a scratchpad grows by a line an item, and is one context.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from retune_jax import config as recipes
from retune_jax import tasks, tokenizer
from retune_jax.data.encode import encode
from retune_jax.models import presets
from retune_jax.studies import tables
from retune_jax.training import memory

GIB = 2**30

# Model, how the base is held, and the most that it should take, in GiB.
PAPER = (
    ("llama_7b", "none", 24),
    ("llama_7b", "int8", 14),
    ("llama_7b", "nf4", 10),
    ("llama_13b", "none", 40),
    ("llama_13b", "int8", None),
    ("llama_13b", "nf4", None),
)
MODELS = ("tiny", "llama_7b", "llama_13b")
GRAIN = 128  # rows are as long as the longest context, in multiples of so many tokens
QUESTION = "How much memory does a training step take?"


def paper(quick: bool) -> list[dict]:
    """What the paper's recipe takes on one device: 8 rows of 2,048 tokens a step, one at a time."""
    rows: list[dict] = []
    for model, held, most in PAPER[:3] if quick else PAPER:
        config = recipes.recipe(f"model={model}", task="addition")
        config.quantize, config.train.accumulate = held, config.train.rows
        rows.append({"model": model, "base": held, "most": most, **_sizes(memory.peak(config, presets.get(model)))})
        _say(rows[-1])
    return rows


def by_length(recipe: ConfigDict, models: Sequence[str], lengths: Sequence[int]) -> list[dict]:
    """What each method takes for the recipe's task: one row as long as its longest context, and tokens trained a problem.

    Counted with the tiny tokenizer, which cuts numbers into digits as LLaMA's does, and words a little finer. Of each length,
    the largest of 8 random problems.
    """
    task, cutter = tasks.get(recipe.task), tokenizer.tiny()
    rows: list[dict] = []
    known: dict[tuple[str, int], dict] = {}
    for model in models:
        for method in tasks.METHODS:
            for length in lengths:
                needs = _needs(task, method, length, cutter)
                tokens = -(-needs["longest"] // GRAIN) * GRAIN
                if (model, tokens) not in known:
                    config = recipes.recipe(f"model={model}", task=recipe.task)
                    config.train.update({"rows": 1, "accumulate": 1})
                    config.data.update({"sequence_length": tokens, "context_length": tokens})
                    known[model, tokens] = _sizes(memory.peak(config, presets.get(model)))
                rows.append(
                    {"model": model, "method": method, "length": length, **needs, "row": tokens, **known[model, tokens]}
                )
                _say(rows[-1])
    return rows


def perform(recipe: ConfigDict | None, workdir: Path | None, *, quick: bool, command: str) -> str:
    """The study as Markdown; where a workdir is given, which exists, it is written there too."""
    if recipe is None:
        rows, title = paper(quick), "The paper's recipe, 8 rows of 2,048 tokens in 8 micro-batches, on one device."
    else:
        longest = tasks.get(recipe.task).trained_lengths[1]
        models, times = (MODELS[:2], (1, 2)) if quick else (MODELS, (0.5, 1, 2, 4))
        rows = by_length(recipe, models, [max(2, int(longest * factor)) for factor in times])
        title = f"The task {recipe.task}, one row that holds the longest context of a problem, on one device."
    text = "\n\n".join([f"**{QUESTION}** {title}", f"`{command}`", table(rows)])
    if workdir is not None:
        if recipe is not None:
            draw(rows, workdir / tables.FIGURE)
        tables.save(workdir, text, {"study": "memory", "question": QUESTION, "command": command, "quick": quick, "rows": rows})
    return text


def table(rows: list[dict]) -> str:
    """The rows in Markdown: sizes in GiB."""
    names = [name for name in rows[0] if name != "most"]
    titles = {
        "base": "base held in",
        "trained_tokens": "tokens trained",
        "read_tokens": "tokens read",
        "longest": "longest context",
    }
    titles |= {"weights": "base, GiB", "state": "adapter and optimizer", "temporary": "temporaries", "total": "in all"}
    lines = ["| " + " | ".join(titles.get(name, name) for name in names) + " |", "|" + "---|" * len(names)]
    for row in rows:
        cells = [f"{row[name]:.2f}" if isinstance(row[name], float) else str(row[name]) for name in names]
        if row.get("most"):
            cells[-1] += f" (at most {row['most']}{'' if row['total'] <= row['most'] else ': MISSED'})"
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines).replace("| none |", "| its dtype |")


def draw(rows: list[dict], path: Path):
    """Memory above base and optimizer by length, a panel a model; and the tokens trained a problem."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from retune_jax.evaluation.figure import COLOURS

    models = list(dict.fromkeys(row["model"] for row in rows))
    figure = Figure(figsize=(3 * (len(models) + 1), 3), dpi=150, layout="constrained")
    panels = figure.subplots(1, len(models) + 1)
    for axes, name in zip(panels, [*models, None]):
        for method in tasks.METHODS:
            chosen = [row for row in rows if row["method"] == method and row["model"] == (name or models[0])]
            values = [row["temporary"] * 1024 if name else row["trained_tokens"] for row in chosen]
            axes.plot([row["length"] for row in chosen], values, marker=".", lw=1.4, color=COLOURS.get(method), label=method)
        axes.set_title(f"{name}: temporaries, MiB" if name else "tokens trained a problem", loc="left", fontsize=9)
        axes.set(xlabel="length", ylim=(0, None))
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].legend(frameon=False, fontsize=8)
    FigureCanvasAgg(figure).print_png(path)


def _needs(task, method: str, length: int, cutter) -> dict[str, int]:
    """The longest context of a problem, the tokens that it is trained on, and those that are read for it; of 8 the largest."""
    rng = np.random.default_rng(0)
    found: list[tuple[int, int, int]] = []
    for _ in range(8):
        root = task.written(task.sample(rng, length), method)
        opening = task.opening(method)
        examples = [{"inputs": context.inputs(opening), "outputs": context.outputs()} for context in root.walk()]
        encoded = [encode(cutter, example, "sum") for example in examples]
        lengths = [len(one["tokens_T"]) for one in encoded]
        found.append((max(lengths), int(sum(one["weights_T"].sum() for one in encoded)), sum(lengths)))
    longest, trained, read = (max(values) for values in zip(*found))
    return {"longest": longest, "trained_tokens": trained, "read_tokens": read}


def _sizes(peak: memory.Peak) -> dict[str, float]:
    sizes = {"weights": peak.base, "state": peak.trained, "temporary": peak.temporary, "total": peak.total}
    return {name: value / GIB for name, value in sizes.items()}


def _say(row: dict):
    print("retune_jax: " + ", ".join(f"{row[name]}" for name in list(row)[:3]) + f": {row['total']:.2f} GiB", file=sys.stderr)
