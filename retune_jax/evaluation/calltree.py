"""A call tree as a list of records: each context, what the model wrote in it, and what would have been right.

The records are what `solve` shows and prints as JSON, and what a report lets its reader browse. Parity of [1, 1], whose
callee errs:

    >>> from retune_jax import tasks
    >>> from retune_jax.protocol import Context, Segment
    >>> parity = tasks.get("parity")
    >>> callee = Context("What is the parity of [1]?", (Segment(" 0"),))
    >>> call = Segment(" Call: What is the parity of [1]?\\n", callee)
    >>> top, below = records(parity, "retune", Context("What is the parity of [1, 1]?", (call, Segment(" 1"))))
    >>> [segment["callee"] for segment in top["segments"]], below["caller"]
    ([1, None], 0)
    >>> below["segments"][0]["wrong"], below["segments"][0]["right"]
    ('wrong_computation', ' 1')
    >>> top["value"], top["right_value"]    # a wrong value, rightly computed from a wrong one: no mistake is made here
    ('1', '0')
    >>> "wrong" in top["segments"][1]
    False

A list, because trees may be hundreds of calls deep and JSON readers recurse.
"""

from collections.abc import Iterator, Sequence
from typing import NotRequired, TypedDict

from retune_jax.evaluation import errors
from retune_jax.protocol import Context
from retune_jax.tasks.task import Task, calls, solved

RUNNING = "running"  # the status of contexts that are still being worked on


class SegmentRecord(TypedDict):
    """One segment. `wrong` (the kind of mistake) and `right` (what should stand here) are there only where it is wrong.

    `tokens` (its EOS counted) and `log_probability` (in nats) are there where the decoder has measured them (`measured`).
    """

    text: str
    callee: int | None
    returned: NotRequired[str]  # the value that was pasted behind a call
    wrong: NotRequired[str]
    right: NotRequired[str]
    tokens: NotRequired[int]
    log_probability: NotRequired[float]


class ContextRecord(TypedDict):
    """One context; `caller` and `callee` are indices into the list of records, which is in the order of opening."""

    prompt: str
    caller: int | None
    depth: int
    status: str
    value: str
    right_value: str | None  # the true value of its prompt; None where that is no problem of the task
    segments: list[SegmentRecord]


def records(task: Task | None, method: str, tree: Context) -> list[ContextRecord]:
    """The records of a tree, judged against the task's own recursion.

    Args:
        task: None judges nothing (`right_value` is None everywhere), as for a prompt that is no problem.
        method: the methods without calls have one context, and its only segment is judged as a whole.
        tree: may be unfinished: in contexts of status `RUNNING` a last segment without a callee is still being written.
    """
    found: list[ContextRecord] = []
    known: dict[str, str] = {}
    waiting: list[tuple[Context, int | None, int]] = [(tree, None, 0)]
    while waiting:
        context, caller, depth = waiting.pop()
        index = len(found)
        if caller is not None:  # the caller's segments get their callees in order, as contexts open in order
            call = next(segment for segment in found[caller]["segments"] if segment["callee"] == -1)
            call["callee"] = index
        segments: list[SegmentRecord] = [{"text": s.text, "callee": -1 if s.callee else None} for s in context.segments]
        for segment, record in zip(context.segments, segments):
            if segment.callee and segment.callee.status == "ok":
                record["returned"] = segment.callee.value if context.carries else ""
        opened: ContextRecord = {
            "prompt": context.prompt,
            "caller": caller,
            "depth": depth,
            "status": context.status,
            "value": context.value,
            "right_value": None,
            "segments": segments,
        }
        found.append(opened)
        waiting.extend((s.callee, index, depth + 1) for s in reversed(context.segments) if s.callee)
        if task is not None and calls(method):
            opened["right_value"] = right_value(task, context.prompt, known)
            mistake = errors.mistake_in(task, _complete(context))
            if mistake is not None:
                wrong = next(i for i, segment in enumerate(context.segments) if segment is mistake.segment)
                segments[wrong] |= {"wrong": mistake.kind, "right": mistake.right}
        elif task is not None:
            _judge_whole(task, method, context, opened)
    return found


def measured(tree: Sequence[ContextRecord], spoken: Sequence[tuple[int, float]]):
    """Writes into the records what a decoder with `trace` says of each segment that ended (`Result.spoken`)."""
    for (index, at), (tokens, log_probability) in zip(written(tree), spoken):
        segment = tree[index]["segments"][at]
        segment["tokens"], segment["log_probability"] = tokens, round(log_probability, 4)


def right_value(task: Task, prompt: str, known: dict[str, str]) -> str | None:
    """The value that the prompt's context should have; None where the prompt is no problem. `known` is added to."""
    try:
        owner, problem = task.reading(prompt)
        for _ in solved(owner, problem, known):
            pass
        return known[owner.prompt(problem)]
    except Exception:  # tasks raise whatever they like at rubbish
        return None


def _complete(context: Context) -> Context:
    """The context without a segment that is still being written."""
    if context.status != RUNNING or not context.segments or context.segments[-1].callee:
        return context
    return Context(context.prompt, context.segments[:-1], context.status)


def _judge_whole(task: Task, method: str, context: Context, record: ContextRecord):
    """Judges the one segment of a method that does not call."""
    try:
        problem = task.parse(context.prompt)
    except Exception:
        return
    record["right_value"] = task.answer(problem)
    if context.segments and context.status != RUNNING:
        text = context.segments[-1].text
        record["value"] = task.final(method, text)
        if record["value"] != record["right_value"]:
            right = task.written(problem, method).segments[-1].text
            record["segments"][-1] |= {"wrong": errors.WRONG_COMPUTATION, "right": right}


class MistakeRecord(TypedDict):
    """The first thing that went wrong in a tree."""

    context: int
    depth: int
    kind: str  # wrong_call, wrong_computation, or the status that the problem ended with
    asked: str
    returned: list[str]  # what the context's calls had brought back by then
    wrote: str
    right: str | None  # None where the task cannot say


def first_mistake(tree: Sequence[ContextRecord]) -> MistakeRecord | None:
    """The first mistake in the order of writing; in a tree without one, where it ended early; None where it did not."""
    last = None
    for index, at in written(tree):
        context, segment = tree[index], tree[index]["segments"][at]
        last = _mistake(tree, index, at, segment.get("wrong", context["status"]), segment.get("right"))
        if "wrong" in segment:
            return last
    stopped = next((context for context in reversed(tree) if context["status"] not in ("ok", RUNNING)), None)
    if stopped is None:
        return None
    if last is None:  # the question itself did not fit
        return _mistake(tree, 0, 0, stopped["status"], None)
    return {**last, "kind": stopped["status"]}


def written(tree: Sequence[ContextRecord]) -> Iterator[tuple[int, int]]:
    """Yields (context, segment) indices in the order of writing: a call, all below it, the caller's next segment."""
    waiting = [(0, 0)]
    while waiting:
        index, at = waiting.pop()
        segments = tree[index]["segments"]
        if at == len(segments):
            continue
        yield index, at
        waiting.append((index, at + 1))
        callee = segments[at]["callee"]
        if callee is not None:
            waiting.append((callee, 0))


def _mistake(tree: Sequence[ContextRecord], index: int, at: int, kind: str, right: str | None) -> MistakeRecord:
    context = tree[index]
    before = [segment["callee"] for segment in context["segments"][:at]]
    return {
        "context": index,
        "depth": context["depth"],
        "kind": kind,
        "asked": context["prompt"],
        "returned": [tree[callee]["value"] for callee in before if callee is not None],
        "wrote": context["segments"][at]["text"] if context["segments"] else "",
        "right": right,
    }
