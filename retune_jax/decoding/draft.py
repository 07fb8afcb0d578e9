"""Guessing tokens: what a context says next is mostly a copy of what it has said before.

A call repeats most of the prompt, an answer most of the returned value. So the guess is whatever followed, earlier in the same
window, the place that looks most like the present one. Guesses are only ever *verified*, in the pass of the model that they ride
along with: they change how many tokens a pass yields, never which.

Where to copy from. Take parity, `… of [0, 1, 1]?\\nSolution: Call: … of [` : the copy of the prompt has arrived at the first item,
and copying on guesses `0`; but the model drops that item and writes `1`. The guess fails, and now the last tokens `[ 1` appear
nowhere as a run. Three things can have happened to a running copy, each with a place where it goes on:

    the same      the guess held                 source
    skipped       the copy left something out    just behind the next `1` after the source
    replaced      the copy wrote another token   source, as if the guess had held

Every index of the window is rated as the place to copy from: by how long a run of tokens before it equals the end of the window,
and by whether it continues the running copy in one of these ways. The best one, the earliest of equals, is the new source.

Shapes: B slots, X indices of a window.
"""

import jax
import jax.numpy as jnp

from retune_jax.decoding.state import Slots, pick, take

RUN = 12  # longest run that is compared; a longer one is no better
SKIP = 8  # how far a copy may jump ahead
SAME, SKIPPED, REPLACED = 100, 30, 25  # ratings, in units of a tenth of a token of the run


def guess(slots: Slots) -> tuple[jax.Array, jax.Array]:
    """Fills each window above `known` with guesses: returns the new tokens_BX and source_B."""
    source_B = rate(slots)
    at_BX = jax.lax.broadcasted_iota(jnp.int32, slots.tokens_BX.shape, 1)
    known_B1, source_B1 = slots.known_B[:, None], source_B[:, None]
    # A copy that reaches the end of what is known goes on with its own guesses: text with a period is guessed for good.
    period_B1 = jnp.maximum(known_B1 - source_B1, 1)
    copied_BX = take(slots.tokens_BX, source_B1 + (at_BX - known_B1) % period_B1)
    return jnp.where(at_BX >= known_B1, copied_BX, slots.tokens_BX), source_B


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
    copying_B1 = source_B1 > 0
    held_B1 = pick(tokens_BX, slots.source_B - 1)[:, None] == end_BR[:, :1]
    rating_BX = 10 * run_BX
    rating_BX += jnp.where(copying_B1 & (ahead_BX == 0), jnp.where(held_B1, SAME, REPLACED), 0)
    rating_BX += jnp.where(copying_B1 & (ahead_BX > 0) & (ahead_BX <= SKIP) & (run_BX > 0), SKIPPED - ahead_BX, 0)
    return jnp.argmax(jnp.where((at_BX > 0) & (at_BX < known_B1), rating_BX, -1), axis=1).astype(jnp.int32)
