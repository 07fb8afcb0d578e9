"""From a slot's log back to text: the tree of contexts of one problem.

The device hands out no tree, only the tokens that were generated, in order, each segment closed by a mark. That is enough: what
stands between the segments is fixed by the protocol. Parity of [0, 1]:

    ▁Call : ▁What … [ 1 ] ? ⏎ CALLED    ▁1 ANSWERED    ▁1 ANSWERED
    └ the top context calls ┘ └ the callee answers ┘ └ the top context goes on and answers

Trees may be hundreds of calls deep, so nothing here recurses.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from retune_jax.protocol import CallRead, Context, Segment, read

# Marks, in the place of a segment's EOS: it opened a context; it ended its context; the problem ended with it; it opened a
# context that another problem had solved: the problem's number and the begin and end of the context in its log follow.
CALLED, ANSWERED, FAILED, RECALLED = -1, -2, -3, -4


# In a trace, each mark is followed by minus the log-probability of its segment, in so many nats.
SCORE = 1e-4


class Spoken(NamedTuple):
    """A generated segment: how many tokens, its EOS counted, and how likely the model found them, in nats."""

    tokens: int
    log_probability: float


class Work(NamedTuple):
    """What a problem took, and what it was spared, in tokens but for `recalled`. It depends on the schedule; the text does not.

    Attributes:
        computed: tokens that the model was fed, guesses that did not hold among them.
        kept: tokens whose keys and values were there already, of callers and of beginnings in common with them.
        guessed: generated tokens that needed no pass of their own, because they had been guessed.
        spared: generated tokens of contexts that the memo held. recalled: calls that it answered.
    """

    computed: int = 0
    kept: int = 0
    guessed: int = 0
    spared: int = 0
    recalled: int = 0


@dataclass(frozen=True)
class Result:
    """How one problem went.

    Attributes:
        prompt: the problem, as it was given.
        status: one of `protocol.STATUSES`.
        text: the last segment of the top context, "" if it has none.
        value: the answer's value, "" unless the status is ok.
        context: the tree of contexts, cut short where the problem ended early; contexts that were open then have its status.
        calls: calls made.
        tokens: tokens generated in all contexts, each segment's EOS counted.
        depth: most callers suspended at a time.
        work: what that took; two results may be equal and differ in it.
        spoken: of a decoder with `trace`, each segment that ended, in the order in which they were generated, as
            `context.turns` gives them.
    """

    prompt: str
    status: str
    text: str
    value: str
    context: Context = field(repr=False)
    calls: int
    tokens: int
    depth: int
    work: Work = field(default=Work(), compare=False)
    spoken: tuple[Spoken, ...] = field(default=(), compare=False, repr=False)


def spoken(log_T: np.ndarray) -> tuple[tuple[Spoken, ...], np.ndarray]:
    """The segments of a trace's log, and the log without their scores."""
    marks_N = np.flatnonzero(log_T < 0)
    marks_N = marks_N[marks_N + 1 < len(log_T)]
    lengths_N = np.diff(marks_N, prepend=-2) - 1  # the score before is none of the segment's tokens, the EOS is one
    scores_N = log_T[marks_N + 1] * -SCORE
    return tuple(map(Spoken, lengths_N.tolist(), scores_N.tolist())), np.delete(log_T, marks_N + 1)


def trace(result: Result) -> list[dict]:
    """The contexts of a result in the order in which they opened: prompt, depth, status, text, and segments.

    A segment has its text, and from a decoder with `trace` its tokens and log-probability (None where it did not end).
    """
    contexts, measured = [], iter(result.spoken)
    waiting: list[tuple[Context, int, int, dict]] = []

    def opens(context: Context, depth: int):
        record = {"prompt": context.prompt, "depth": depth, "status": context.status, "text": context.text, "segments": []}
        contexts.append(record)
        waiting.append((context, 0, depth, record))

    opens(result.context, 0)
    while waiting:
        context, index, depth, record = waiting.pop()
        if index == len(context.segments):
            continue
        segment, (tokens, log_probability) = context.segments[index], next(measured, (None, None))
        record["segments"].append({"text": segment.text, "tokens": tokens, "log_probability": log_probability})
        waiting.append((context, index + 1, depth, record))
        if segment.callee:
            opens(segment.callee, depth + 1)
    return contexts


def vote(results: Sequence[Result]) -> Result:
    """The first result with the value that most of the solved ones have (Wang et al., 2023); the first where none is solved."""
    solved = [result for result in results if result.status == "ok"]
    votes = Counter(result.value for result in solved)
    return max(solved, key=lambda result: votes[result.value]) if solved else results[0]


@dataclass
class _Open:
    """A context that is being rebuilt."""

    prompt: str
    carries: bool
    segments: list[Segment] = field(default_factory=list)
    call: str = ""  # text of the segment whose callee is being rebuilt

    def closed(self, status: str) -> Context:
        return Context(self.prompt, tuple(self.segments), status, self.carries)


def expand(log_T: np.ndarray, log_of: Callable[[int], np.ndarray], scores: int = 0) -> np.ndarray:
    """The log with the subtrees that the memo held in their places.

    `log_of` gives the log of a problem, by its number; `scores` is 1 for a trace, where a score follows each mark.
    """
    parts, waiting = [], [(log_T, 0, len(log_T))]
    while waiting:
        log_T, begin, end = waiting.pop()
        recalled_N = np.flatnonzero(log_T[begin:end] == RECALLED)
        if not len(recalled_N):
            parts.append(log_T[begin:end])
            continue
        at = begin + recalled_N[0]
        place = at + 1 + scores
        problem, first, last = log_T[place : place + 3].tolist()
        parts += [log_T[begin:at], np.array([CALLED], np.int32), log_T[at + 1 : place]]
        waiting += [(log_T, place + 3, end), (log_of(problem), first, last)]
    return np.concatenate(parts)


def rebuild(prompt: str, status: str, log_T: np.ndarray, pieces: list[bytes], carries: bool = True) -> Context:
    """The tree of contexts behind a problem's log (generated token ids and marks).

    `pieces` are the bytes of each id; `carries` says whether values were pasted.
    """
    contexts = [_Open(prompt, carries)]
    ends_N = np.flatnonzero(log_T < 0)
    for begin, end in zip([0, *(ends_N + 1)], [*ends_N, len(log_T)]):
        ids, mark = log_T[begin:end].tolist(), int(log_T[end]) if end < len(log_T) else FAILED
        text = b"".join(pieces[id] if id < len(pieces) else b"" for id in ids).decode(errors="replace")
        if mark == CALLED:
            contexts[-1].call = text
            reading = read(text)
            contexts.append(_Open(reading.prompt if isinstance(reading, CallRead) else "", carries))
        elif mark == ANSWERED:
            contexts[-1].segments.append(Segment(text))
            if len(contexts) > 1:
                _close(contexts, "ok")
        elif text or end < len(log_T):
            contexts[-1].segments.append(Segment(text))
    while len(contexts) > 1:
        _close(contexts, status)
    return contexts[0].closed(status)


def _close(contexts: list[_Open], status: str):
    """Ends the innermost context and hands it to its caller."""
    callee = contexts.pop().closed(status)
    contexts[-1].segments.append(Segment(contexts[-1].call, callee))
