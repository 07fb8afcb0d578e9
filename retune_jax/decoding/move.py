"""Copies of keys and values between the active windows and the stack: what a call keeps and a return brings back.

Copies go block by block, and only the blocks that are needed: those of the slots that call (or return) in this
transition, up to the length of the caller. A CPU does them one after the other in a loop, whose carry is the buffer that it
writes, so that XLA updates it in place; a GPU does all of them at once, in place as well. The transition is the only place
where the stack is touched at all.

Shapes: B slots, H key-value heads, N blocks.
"""

from functools import partial

import jax
import jax.numpy as jnp

from retune_jax.models.sharding import BATCH, CACHE, fitting

BLOCK = 64  # tokens of one copy


def blocks_at_a_time(slots: int, window: int) -> int | None:
    """How many blocks a transition may move; None: all that there are.

    A CPU runs a loop as often as it has to. A GPU would ask the host before each turn whether there is another, so that its
    loop has a fixed number of turns, and slots that find no room in it wait for the next transition.
    """
    return None if jax.default_backend() == "cpu" else max(slots, -(-window // BLOCK))


def served(length_B, moves_B, most: int | None):
    """Which of the moving slots find room among `most` blocks."""
    return moves_B if most is None else moves_B & (jnp.cumsum(jnp.where(moves_B, -(-length_B // BLOCK), 0)) <= most)


def store(stack, cache, axes, base_B, length_B, moves_B, most: int | None, space, mesh):
    """The stack with the first `length` tokens of the moving windows laid down at `base`.

    `axes` say where a leaf [B, H, …] has its tokens (`state.window_axes`). `space` is the memory that the stack lies in, None
    for the cache's own; `mesh` is where the slots are shared, or None.
    """
    return _copy(stack, cache, axes, base_B, jnp.zeros_like(base_B), length_B, moves_B, most, None, space, mesh)


def load(cache, stack, axes, base_B, length_B, moves_B, most: int | None, space, mesh):
    """The cache with `length` tokens from `base` of the moving slots' stacks at its beginning."""
    return _copy(cache, stack, axes, jnp.zeros_like(base_B), base_B, length_B, moves_B, most, space, None, mesh)


def _copy(into, out_of, axes, into_B, out_of_B, length_B, moves_B, most, from_space, to_space, mesh):
    """Copies on each device of a mesh for its own slots and heads: where a slot's number is not known when it is compiled, the
    partitioner would bring the stacks of all devices together instead."""
    local = partial(_copy_here, axes=axes, most=most, from_space=from_space, to_space=to_space)
    if mesh is None or from_space is not None or to_space is not None:
        return local(into, out_of, into_B, out_of_B, length_B, moves_B)
    # Slots that the mesh does not divide lie whole on every device, and every device copies them.
    rows = fitting(BATCH, into_B.shape, mesh)
    blocks_of = partial(jax.tree.map, lambda leaf: fitting(CACHE, leaf.shape, mesh))
    specs = blocks_of(into), blocks_of(out_of), rows, rows, rows, rows
    shared = jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=specs[0], check_vma=False)
    return shared(into, out_of, into_B, out_of_B, length_B, moves_B)


def _copy_here(into, out_of, into_B, out_of_B, length_B, moves_B, axes, most, from_space, to_space):
    """Copies whole blocks, so up to a block more than `length`: what lies behind is free in both buffers."""
    window = min(leaf.shape[axis] for tree in (into, out_of) for leaf, axis in zip(jax.tree.leaves(tree), axes))
    block = min(BLOCK, window)
    jobs_B = jnp.where(moves_B, -(-length_B // block), 0)
    end_B = jnp.cumsum(jobs_B)
    at_once = most is not None and from_space is None and to_space is None

    def places(number_N):
        """Of each job: its slot, and where its block begins in the one buffer and in the other."""
        slot_N = jnp.minimum(jnp.sum(end_B <= number_N[:, None], axis=1), end_B.shape[0] - 1)
        # The last block of a window must not pass its end; it covers some of the block before it again.
        at_N = jnp.clip((number_N - (end_B[slot_N] - jobs_B[slot_N])) * block, 0, window - block)
        return slot_N, into_B[slot_N] + at_N, out_of_B[slot_N] + at_N

    def leaf(into, out_of, axis):
        shape = (1, *(block if other == axis else into.shape[other] for other in range(1, into.ndim)))
        if at_once:
            number_N = jnp.arange(most)
            slot_N, into_N, out_of_N = places(number_N)
            # What there is nothing to do for goes to a slot that there is not, and is dropped.
            to_N = jnp.where(number_N < end_B[-1], slot_N, into.shape[0])
            rest = tuple(range(1, into.ndim))
            gather = jax.lax.GatherDimensionNumbers(offset_dims=rest, collapsed_slice_dims=(0,), start_index_map=(0, axis))
            pieces = jax.lax.gather(out_of, jnp.stack([slot_N, out_of_N], axis=1), gather, shape, mode="clip")
            scatter = jax.lax.ScatterDimensionNumbers(rest, inserted_window_dims=(0,), scatter_dims_to_operand_dims=(0, axis))
            return jax.lax.scatter(into, jnp.stack([to_N, into_N], axis=1), pieces, scatter, mode="drop")

        def job(number, into):
            (slot,), (into_at,), (out_of_at,) = places(number[None])

            def start(at):
                return (slot, *(at if other == axis else 0 for other in range(1, into.ndim)))

            piece = jax.lax.dynamic_slice(out_of, start(out_of_at), shape)
            piece = piece if from_space is None else jax.device_put(piece, jax.memory.Space.Device)
            if most is not None:  # a turn with nothing to do leaves what is there
                old = jax.lax.dynamic_slice(into, start(into_at), shape)
                old = old if to_space is None else jax.device_put(old, jax.memory.Space.Device)
                piece = jnp.where(number < end_B[-1], piece, old)
            piece = piece if to_space is None else jax.device_put(piece, to_space)
            return jax.lax.dynamic_update_slice(into, piece, start(into_at))

        return jax.lax.fori_loop(0, end_B[-1] if most is None else most, job, into)

    # A loop a leaf: loops that know nothing of one another run side by side on a CPU.
    return jax.tree.map(leaf, into, out_of, jax.tree.unflatten(jax.tree.structure(into), axes))
