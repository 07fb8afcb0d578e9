"""A call tree as text for a terminal: everything in the order in which it was written, callees inside their callers.

    What is the parity of [1, 1]?
    Solution: ⟦Call: What is the parity of [1]?⟧
    │ What is the parity of [1]?
    │ Solution: ⟦0⟧   ✗ right: 1
    Return: 0
    Answer: ⟦1⟧   (from a wrong value; the true one is 0)

⟦ ⟧ marks what the model wrote. What is wrong is marked where the mistake was made, and, more quietly, where it is only passed
on. As a tree grows its transcript does too: what was said stays, so that a terminal can print it piece by piece.
"""

from collections.abc import Iterator, Sequence

from retune_jax.evaluation.calltree import RUNNING, ContextRecord
from retune_jax.protocol import paste

INDENT = "│ "
DEEPEST = 12  # levels shown by indentation; below, a number says how deep

CONTROLS = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"} | {127: 0x2421}

# What a piece of the transcript is; solve.py gives each a colour.
FRAME, GIVEN, MODEL, WRONG, NOTE = "frame", "given", "model", "wrong", "note"


def pieces(tree: Sequence[ContextRecord], opening: str, *, brackets: bool) -> Iterator[tuple[str, str]]:
    """Yields (text, kind) of the transcript of a tree, which may still be growing.

    Args:
        tree: the records of `calltree.records`.
        opening: the text between a prompt and the first segment, such as "\\nSolution:".
        brackets: whether ⟦ ⟧ marks the model's text (where colours do not).
    """
    left, right = ("⟦", "⟧") if brackets else ("", "")
    waiting = [(0, 0)]  # (context, its next segment)
    while waiting:
        index, at = waiting.pop()
        context, segments = tree[index], tree[index]["segments"]
        shift, over = _indent(context["depth"]), at == len(segments)
        if at == 0:
            yield shift + _lined(context["prompt"] + opening, shift), GIVEN
        elif not over or context["status"] == RUNNING:  # back from a call
            yield shift + _lined(paste(segments[at - 1]["returned"]), shift), GIVEN
        if over:
            if context["status"] not in ("ok", RUNNING):
                yield f"\n{shift}" if at == 0 else shift, FRAME
                yield f"✗ {context['status']}", NOTE
                yield "\n", FRAME
            continue
        segment = segments[at]
        yield f" {left}", FRAME
        if segment["callee"] is None and context["status"] == RUNNING:  # being written: the end may be half a character
            yield _lined(segment["text"].strip().rstrip("\ufffd"), shift), MODEL
            return
        yield _lined(segment["text"].strip(), shift), WRONG if "wrong" in segment else MODEL
        yield right, FRAME
        if "wrong" in segment:
            yield f"   ✗ right: {' '.join(segment['right'].split())}", NOTE
        elif segment["callee"] is None and context["right_value"] not in (None, context["value"]):
            yield f"   (from a wrong value; the true one is {context['right_value']})", NOTE
        yield "\n", FRAME
        if segment["callee"] is None:
            waiting.append((index, at + 1))
            continue
        if tree[segment["callee"]]["status"] == "ok":  # else the problem has ended in there, or not yet
            waiting.append((index, at + 1))
        waiting.append((segment["callee"], 0))


def _indent(depth: int) -> str:
    return INDENT * depth if depth <= DEEPEST else INDENT * DEEPEST + f"{depth}: "


def _lined(text: str, shift: str) -> str:
    """Text of several lines, each of them indented."""
    return visible(text).replace("\n", f"\n{shift}")


def visible(text: str) -> str:
    """Text with its control characters shown (␛), so that what a model writes cannot steer a terminal."""
    return text.translate(CONTROLS)
