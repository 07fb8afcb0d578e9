"""From a slot's log back to text: the tree of contexts of one problem.

The device hands out no tree, only the tokens that were generated, in order, each segment closed by a mark. That is enough: what
stands between the segments is fixed by the protocol. Parity of [0, 1]:

    ▁Call : ▁What … [ 1 ] ? ⏎ CALLED    ▁1 ANSWERED    ▁1 ANSWERED
    └ the top context calls ┘ └ the callee answers ┘ └ the top context goes on and answers

Trees may be hundreds of calls deep, so nothing here recurses.
"""

from dataclasses import dataclass, field

import numpy as np

from retune_jax.protocol import CallRead, Context, Segment, read

# Marks, in the place of a segment's EOS: it opened a context; it ended its context; the problem ended with it.
CALLED, ANSWERED, FAILED = -1, -2, -3


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
    """

    prompt: str
    status: str
    text: str
    value: str
    context: Context = field(repr=False)
    calls: int
    tokens: int
    depth: int


@dataclass
class _Open:
    """A context that is being rebuilt."""

    prompt: str
    carries: bool
    segments: list[Segment] = field(default_factory=list)
    call: str = ""  # text of the segment whose callee is being rebuilt

    def closed(self, status: str) -> Context:
        return Context(self.prompt, tuple(self.segments), status, self.carries)


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
