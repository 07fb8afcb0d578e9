"""Replay: some of the base's own text among a task's examples, so that tuning on short problems keeps what is long.

A model that is tuned on lists of up to 21 bits alone forgets, step by step, how to copy longer ones. A share of the
corpus that the base was made from, which has no task in it, keeps that alive. But what is new and hard to learn (addition's
carry appears in a sudden jump) comes later, or never, when it has to share its steps. So replay can begin *after* a number
of examples: the task alone first, then both.

    >>> mixture = Mixture(["a", "b", "c", "d", "e"], ["x", "y"], share=0.5, after=3)
    >>> [mixture[i] for i in range(len(mixture))]
    ['a', 'b', 'c', 'd', 'x', 'e', 'y']

What stands at an index depends on the index alone, so that a run which goes on, or has other processes, reads the same.
"""

import dataclasses
import sys
from fractions import Fraction
from typing import Any


@dataclasses.dataclass(frozen=True)
class Replay:
    """What to replay: a random-access source, its share of the examples, and after how many training steps it begins."""

    source: Any
    share: float
    after: int


class Mixture:
    """A random-access source: all of `main`, and from index `after` on so many of `other` that they make up `share` there.

    Args:
        main: a random-access source; an endless one has `sys.maxsize` examples, and so has the mixture.
        other: a random-access source; gone through again when it ends.
        share: in [0, 1).
        after: index of the first example that may be one of `other`.
    """

    def __init__(self, main, other, share: float, after: int = 0):
        self.main, self.other, self.share, self.after = main, other, Fraction(str(share)), after

    def __len__(self) -> int:
        alone = min(self.after, len(self.main))
        return min(sys.maxsize, alone + int((len(self.main) - alone) / (1 - self.share)))

    def __getitem__(self, index: int):
        """Example `index`; those of `other` stand at even distances."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        before, after = (int(max(0, end - self.after) * self.share) for end in (index, index + 1))
        return self.other[before % len(self.other)] if after > before else self.main[index - before]
