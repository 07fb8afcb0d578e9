r"""Guessing tokens: what a context says next is mostly a copy of what it has said before.

A call repeats most of the prompt, an answer most of the returned value. So the guess is whatever follows, earlier in
the same window, the place that looks most like the present one. Guesses are only ever *verified*, in the pass of the
model that they ride along with: they change how many tokens a pass yields, never which.

Where to copy from. Take parity, `… of [0, 1, 1]?\nSolution: Call: … of [` : the copy of the prompt has arrived at the
first item, and copying on guesses `0`; but the model drops that item and writes `1`. The guess fails, and the last
tokens `[ 1` appear nowhere as a run. A copy is at one of these points:

    held        the last guess was right                            go on at the source
    skipped     it left something out, like this one                go on just behind the next `1` after the source
    inserted    it put a token in (a sum grows by a digit)          guess the failed token again
    replaced    it wrote another token (`Carry 1` for `Carry 0`)    go on as if the guess had been right

Every index of the window is rated as the place to copy from: by how long a run of tokens before it equals the end of
the window, and by whether it continues the running copy in one of these ways. The best one, the earliest of equals, is
the new source.

Two places are known beforehand: a fresh context is guessed to call, and to repeat its prompt behind `Call:`; what
follows a pasted value is guessed to repeat the value (the transition sets that source).

With the tiny tokenizer and 16 tokens a step, a pass yields 5.4 tokens on parity of 30 bits, 5.8 on addition of 60
digits and 1.8 on dynamic programming of 12 items, whose calls begin with words that stand nowhere in their window.

Shapes: B slots, X indices of a window, R tokens of a run.
"""

import jax
import jax.numpy as jnp

from retune_jax.decoding.reading import Words
from retune_jax.decoding.state import Slots, take

RUN = 12  # longest run that is compared; a longer one is no better
SKIP = 8  # how far a copy may jump ahead
# What a point is worth, where each token of a run is worth 10. Set by trying on the three tasks.
HELD, SKIPPED, INSERTED, REPLACED = 100, 30, 28, 25


def guess(words: Words, slots: Slots) -> tuple[jax.Array, jax.Array]:
    """Fills each window above `known` with guesses: returns the new tokens_BX and source_B."""
    at_BX = jax.lax.broadcasted_iota(jnp.int32, slots.tokens_BX.shape, 1)
    call = jnp.array(words.call, jnp.int32)
    # A fresh context may begin with a call: `Call:`, then a copy of the prompt, which stands behind BOS.
    fresh_B = (slots.known_B == slots.segment_B) & (slots.source_B <= 0)
    source_B = jnp.where(fresh_B, 1 - len(words.call), rate(slots))
    known_B1, source_B1 = slots.known_B[:, None], source_B[:, None]
    # A copy that reaches the end of what is known goes on with its own guesses: text with a period is guessed for good.
    period_B1 = jnp.maximum(known_B1 - source_B1, 1)
    guess_BX = take(slots.tokens_BX, source_B1 + (at_BX - known_B1) % period_B1)
    ahead_BX = at_BX - known_B1
    guess_BX = jnp.where(fresh_B[:, None] & (ahead_BX < len(words.call)), call.at[ahead_BX].get(mode="clip"), guess_BX)
    return jnp.where(ahead_BX >= 0, guess_BX, slots.tokens_BX), source_B


def rate(slots: Slots) -> jax.Array:
    """The index of each window from which to copy, [B]; above 0 and below `known`, where there are two tokens at least."""
    tokens_BX, known_B1, source_B1 = slots.tokens_BX, slots.known_B[:, None], slots.source_B[:, None]
    at_BX = jax.lax.broadcasted_iota(jnp.int32, tokens_BX.shape, 1)
    end_BR = take(tokens_BX, known_B1 - 1 - jnp.arange(RUN))
    padded_BX = jnp.pad(tokens_BX, ((0, 0), (RUN, 0)), constant_values=-1)
    equal_BX = jnp.ones(tokens_BX.shape, bool)
    run_BX = jnp.zeros_like(tokens_BX)
    for back in range(RUN):
        start = RUN - 1 - back
        equal_BX &= padded_BX[:, start : start + tokens_BX.shape[1]] == end_BR[:, back : back + 1]
        run_BX += equal_BX
    ahead_BX = at_BX - source_B1
    held_B1 = (source_B1 > 0) & (take(tokens_BX, source_B1 - 1) == end_BR[:, :1])
    # The copy was running until the last token.
    broke_B1 = (source_B1 > 1) & ~held_B1 & (take(tokens_BX, source_B1 - 2) == end_BR[:, 1:2])
    rating_BX = 10 * run_BX
    rating_BX += jnp.where(held_B1 & (ahead_BX == 0), HELD, 0)
    rating_BX += jnp.where(broke_B1 & (ahead_BX == 0), REPLACED, 0)
    rating_BX += jnp.where(broke_B1 & (ahead_BX == -1), INSERTED, 0)
    rating_BX += jnp.where(broke_B1 & (ahead_BX > 0) & (ahead_BX <= SKIP) & (run_BX > 0), SKIPPED - ahead_BX, 0)
    return jnp.argmax(jnp.where((at_BX > 0) & (at_BX < known_B1), rating_BX, -1), axis=1).astype(jnp.int32)
