"""What a context holds so far, as one number: models of the benchmarks choose the next token by it.

Beside a network's keys and values each token has an entry, in the same windows. The hash of a context is the sum of its
entries, so that a single wrong one (a caller restored from the wrong place, a guess not overwritten) gives another hash.

Shapes: B slots, C tokens of a step, W window, N tokens.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np


def scatter(bits):
    """A bijection of uint32 that leaves no pattern; the same in NumPy and JAX."""
    bits = (bits ^ (bits >> 16)) * np.uint32(0x7FEB352D)
    bits = (bits ^ (bits >> 15)) * np.uint32(0x846CA68B)
    return bits ^ (bits >> 16)


def entry(token, position, seed: int):
    """The number that stands for a token at a position."""
    return scatter(scatter(token + np.uint32(1 + seed)) + position * np.uint32(0x9E3779B9))


def hashes_of(ids: Sequence[int], seed: int) -> np.ndarray:
    """The hash of a context of these ids as it was after each of them: uint32 [N]."""
    ids_N = np.array(ids, np.uint32)
    return np.cumsum(entry(ids_N, np.arange(len(ids_N), dtype=np.uint32), seed), dtype=np.uint32)


def empty(batch: int, window: int):
    """No entries yet: a leaf of a cache, as the decoder wants it."""
    return jnp.zeros((batch, 1, window, 1), jnp.uint32)


def extended(entries_B1W1, tokens_BC, start_B, seed: int):
    """The hash of each slot's context up to each of its C new tokens, which stand from `start` on, and all entries."""
    at_BC = (start_B[:, None] + jnp.arange(tokens_BC.shape[1])).astype(jnp.uint32)
    new_BC = entry(tokens_BC.astype(jnp.uint32), at_BC, seed)
    put = jax.vmap(lambda old, new, at: jax.lax.dynamic_update_slice(old, new, (at,)))
    entries_BW = put(entries_B1W1[:, 0, :, 0], new_BC, start_B)
    old_BW = jnp.where(jnp.arange(entries_BW.shape[1]) < start_B[:, None], entries_BW, 0)
    hash_BC = old_BW.sum(1, dtype=jnp.uint32)[:, None] + jnp.cumsum(new_BC, axis=1, dtype=jnp.uint32)
    return hash_BC, entries_BW[:, None, :, None]
