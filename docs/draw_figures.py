"""Draws the figures of docs/concepts.md, from the project's own data: `python docs/draw_figures.py [FOLDER]`."""

import sys
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from retune_jax import tasks, tokenizer
from retune_jax.data.encode import encode

FOLDER = Path(sys.argv[1]) if sys.argv[1:] else Path(__file__).parent / "figures"
INK, SOFT, MODEL, GIVEN, BLUE = "#1d2329", "#5d6873", "#d8ecfb", "#f2f3f4", "#1b6ca8"
MONO = {"family": "DejaVu Sans Mono", "fontsize": 9}


def protocol():
    """The contexts of a parity of three bits, callees to the right of their callers."""
    parity = tasks.get("parity")
    figure = Figure(figsize=(9.6, 3.0))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, 100), ylim=(0, 30))
    axes.axis("off")
    for depth, context in enumerate(tasks.trace(parity, parity.parse("[0, 1, 1]")).walk()):
        left, top = 1 + depth * 33, 27.5
        height = 17 if depth < 2 else 8
        axes.add_patch(FancyBboxPatch((left, top - height), 31, height, boxstyle="round,pad=0.4", fc="white", ec=SOFT, lw=0.8))
        lines, y = [], top - 1.8
        for before, text in zip(context.inputs(), context.outputs()):
            lines += [(line, GIVEN) for line in before.strip().split("\n")]
            lines.append((text.strip(), MODEL))
        for text, fill in lines:
            axes.text(left + 0.6, y, text, va="center", color=INK, bbox={"fc": fill, "ec": "none", "pad": 1.6}, **MONO)
            y -= 2.7
        if depth < 2:
            axes.annotate("", (left + 33.2, top - 2), (left + 31, top - 6), arrowprops={"arrowstyle": "->", "color": BLUE})
            axes.text(left + 31.2, top - 8.4, "call", color=BLUE, fontsize=8)
    axes.text(1, 2.4, "written by the model", bbox={"fc": MODEL, "ec": "none"}, fontsize=9, color=INK)
    axes.text(18, 2.4, "the question, and what is pasted", bbox={"fc": GIVEN, "ec": "none"}, fontsize=9, color=INK)
    _save(figure, "protocol.svg")


def training():
    """One context as the model reads it, and what it has to predict at each place."""
    parity, words = tasks.get("parity"), tokenizer.tiny()
    context = tasks.trace(parity, parity.parse("[0, 1]"))
    example = encode(words, {"inputs": context.inputs(), "outputs": context.outputs()}, "sum")
    special = {words.bos: "BOS", words.eos: "EOS"}
    shown = [special.get(t, words.decode([t]).replace("\n", "⏎").replace(" ", "·")) for t in range(words.vocab_size)]
    count, per_row = len(example["tokens_T"]), 15
    rows = -(-count // per_row)
    figure = Figure(figsize=(9.6, 0.95 * rows))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(-2, per_row), ylim=(-rows * 3, 0.4))
    axes.axis("off")
    for at in range(count):
        x, y = at % per_row, -(at // per_row) * 3
        target = shown[example["targets_T"][at]] if example["weights_T"][at] else ""
        read = {"fc": GIVEN, "ec": "none", "pad": 2}
        axes.text(x, y - 0.5, shown[example["tokens_T"][at]], ha="center", va="center", color=INK, bbox=read, **MONO)
        if target:
            axes.text(x, y - 1.6, target, ha="center", va="center", color=INK, bbox={**read, "fc": MODEL}, **MONO)
        if x == 0:
            axes.text(-0.75, y - 0.5, "reads", ha="right", va="center", color=SOFT, fontsize=8)
            axes.text(-0.75, y - 1.6, "predicts", ha="right", va="center", color=SOFT, fontsize=8)
    _save(figure, "training.svg")


def decoder():
    """Tokens on the stack and in the window, over the generated tokens of a merge sort: its recursion is a tree."""
    task, words = tasks.get("merge_sort"), tokenizer.tiny()
    tree = tasks.trace(task, task.parse("[5, 3, 8, 1, 9, 2, 7, 4]"))
    stack, window = [], []
    waiting = [(tree, 0, 1, 0)]  # context, its next segment, its tokens so far, tokens suspended below it
    while waiting:
        context, at, length, below = waiting.pop()
        if at == len(context.segments):
            continue
        length += len(words.encode(context.inputs()[at]))
        for _ in words.encode(context.segments[at].text):
            length += 1
            stack.append(below)
            window.append(length)
        waiting.append((context, at + 1, length, below))
        if context.segments[at].callee:
            waiting.append((context.segments[at].callee, 0, 1, below + length))
    figure = Figure(figsize=(9.6, 3.0), layout="constrained")
    axes = figure.add_subplot()
    steps = range(len(stack))
    axes.fill_between(steps, stack, color=BLUE, alpha=0.25, lw=0, label="suspended callers (their keys and values are kept)")
    whole = [s + w for s, w in zip(stack, window)]
    axes.fill_between(steps, stack, whole, color=BLUE, alpha=0.75, lw=0, label="the active window")
    axes.set(xlabel="tokens generated, sorting a list of 8 by merge sort", ylabel="tokens", xlim=(0, len(stack)))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="upper right")
    axes.set_ylim(0, max(whole) * 1.25)
    _save(figure, "decoder.svg")


def _save(figure, name: str):
    FOLDER.mkdir(exist_ok=True)
    figure.savefig(FOLDER / name, metadata={"Date": None})


if __name__ == "__main__":
    matplotlib.rcParams["svg.hashsalt"] = "retune_jax"  # the same file from the same data
    matplotlib.rcParams["svg.fonttype"] = "none"
    protocol()
    training()
    decoder()
