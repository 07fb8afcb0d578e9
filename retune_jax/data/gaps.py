"""Gaps: positions that a training context leaves out, so that distances say nothing about what comes next.

A model that is tuned on short lists learns, beside the task, how far one part of a context lies from another. In dynamic
programming `, item array [` stands only so many tokens behind `sum array [`; with longer lists, both of them are copied well,
and these words between them come out wrong. If a training context counts its positions with a few gaps, as though something
had stood there, what is learned holds at any distance up to the span. (Ruoss et al., 2023, draw all positions at random; here
most neighbours stay neighbours, which is what copying goes by.) Texts are evaluated without gaps.

    >>> rng = np.random.default_rng(7)
    >>> positions(rng, 10, span=40).tolist(), positions(rng, 10, span=40).tolist()
    ([0, 8, 9, 20, 21, 22, 23, 24, 25, 26], [0, 1, 2, 3, 4, 5, 6, 7, 10, 11])
"""

import numpy as np

MOST = 3  # gaps of a context


def positions(rng: np.random.Generator, length: int, span: int) -> np.ndarray:
    """Positions of a context's tokens: from 0, rising, below `span`, with none to `MOST` gaps at random places.

    Args:
        rng: source of randomness.
        length: tokens of the context.
        span: positions that it may take; where it has as many tokens there are no gaps.

    Returns:
        int32 [length].
    """
    count, spare = int(rng.integers(MOST + 1)), max(0, span - length)
    steps = np.ones(length, np.int32)
    steps[0] = 0
    if length > 1 and count and spare:
        shares = rng.dirichlet(np.ones(count)) * rng.integers(spare + 1)
        np.add.at(steps, rng.integers(1, length, count), shares.astype(np.int32))
    return np.cumsum(steps, dtype=np.int32)
