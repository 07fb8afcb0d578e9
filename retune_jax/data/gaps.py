"""Gaps: positions that a training context leaves out, so that distances say nothing about what comes next.

A model that is tuned on short lists learns, beside the task, how far one part of a context lies from another: where the first
digits of two numbers stand, or after how many tokens `, item array [` comes behind `sum array [`. With longer lists it looks
in the wrong place. If half of the training contexts count their positions with a gap, as though something had stood there, what
is learned holds at any distance up to the span. (Ruoss et al., 2023, draw all positions at random; here neighbours stay
neighbours, which is what copying goes by.) Texts are evaluated without gaps.

    >>> rng = np.random.default_rng(8)
    >>> for _ in range(3):
    ...     positions(rng, 10, span=40).tolist()
    [0, 1, 2, 33, 34, 35, 36, 37, 38, 39]
    [0, 1, 2, 3, 4, 5, 30, 31, 32, 33]
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
"""

import numpy as np


def positions(rng: np.random.Generator, length: int, span: int) -> np.ndarray:
    """Positions of a context's tokens: from 0, rising, below `span`, half of the time with a gap at a random place.

    Args:
        rng: source of randomness.
        length: tokens of the context.
        span: positions that it may take; where it has as many tokens there is no gap.

    Returns:
        int32 [length].
    """
    steps = np.ones(length, np.int32)
    steps[0] = 0
    if length > 1 and rng.random() < 0.5:
        steps[rng.integers(1, length)] += rng.integers(max(0, span - length) + 1)
    return np.cumsum(steps, dtype=np.int32)
