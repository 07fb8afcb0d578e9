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


def expand(log_T: np.ndarray, log_of: Callable[[int], np.ndarray]) -> np.ndarray:
    """The log with the subtrees that the memo held in their places. `log_of` gives the log of a problem, by its number."""
    parts, waiting = [], [(log_T, 0, len(log_T))]
    while waiting:
        log_T, begin, end = waiting.pop()
        recalled_N = np.flatnonzero(log_T[begin:end] == RECALLED)
        if not len(recalled_N):
            parts.append(log_T[begin:end])
            continue
        at = begin + recalled_N[0]
        problem, first, last = log_T[at + 1 : at + 4].tolist()
        parts += [log_T[begin:at], np.array([CALLED], np.int32)]
        waiting += [(log_T, at + 4, end), (log_of(problem), first, last)]
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
