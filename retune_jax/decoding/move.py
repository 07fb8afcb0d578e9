"""Copies of keys and values between the active windows and the stack: what a call keeps and a return brings back.

Copies go block by block, and only the blocks that are needed: those of the slots that call (or return) in this
transition, up to the length of the caller. The loop's carry is the buffer that is written, so XLA updates it in place;
the transition is the only place where the stack is touched at all.

Shapes: B slots, H key-value heads, X indices of a window, A stack length, D head width, N jobs.
"""

import jax
import jax.numpy as jnp

BLOCK = 64  # tokens of one copy


def store(stack, cache, base_B, length_B, moves_B):
    """The stack (leaves [B, H, A, D]) with the first `length` tokens of the moving windows laid down at `base`."""
    return _copy(stack, cache, base_B, jnp.zeros_like(base_B), length_B, moves_B)


def load(cache, stack, base_B, length_B, moves_B):
    """The cache (leaves [B, H, X, D]) with `length` tokens from `base` of the moving slots' stacks at its beginning."""
    return _copy(cache, stack, jnp.zeros_like(base_B), base_B, length_B, moves_B)


def _copy(into, out_of, into_B, out_of_B, length_B, moves_B):
    """Copies whole blocks, so up to a block more than `length`: what lies behind is free in both buffers."""
    window = min(leaf.shape[2] for leaf in jax.tree.leaves((into, out_of)))
    block = min(BLOCK, window)
    jobs_B = jnp.where(moves_B, -(-length_B // block), 0)
    end_B = jnp.cumsum(jobs_B)

    def job(number, into):
        slot = jnp.sum(end_B <= number)
        # The last block of a window must not pass its end; it covers some of the block before it again.
        at = jnp.minimum((number - (end_B[slot] - jobs_B[slot])) * block, window - block)

        def leaf(into, out_of):
            _, heads, _, width = into.shape
            piece = jax.lax.dynamic_slice(out_of, (slot, 0, out_of_B[slot] + at, 0), (1, heads, block, width))
            return jax.lax.dynamic_update_slice(into, piece, (slot, 0, into_B[slot] + at, 0))

        return jax.tree.map(leaf, into, out_of)

    return jax.lax.fori_loop(0, end_B[-1], job, into)
