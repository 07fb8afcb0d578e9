"""Keys and values go to the stack and back whole, whichever way they are copied, and nothing else is written over."""

import jax
import numpy as np
import pytest

from retune_jax.decoding import move

SLOTS, WINDOW, STACK = 5, 136, 400
AXES = (3, 2)  # of keys and values


def buffers(rng, tokens):
    return tuple(np.float32(rng.random((SLOTS, 2, *rest))) for rest in ((4, tokens), (tokens, 4)))


def rows(leaf, axis):
    return np.moveaxis(leaf, axis, 1)


@pytest.mark.parametrize("most", [None, 5, 7, 40])
def test_the_moving_slots_tokens_arrive_and_no_other_slot_is_touched(most):
    """All at once (`most`, as on a GPU) writes what block after block does, bit for bit."""
    rng = np.random.default_rng(0)
    copy = jax.jit(move._copy_here, static_argnames=("axes", "most", "from_space", "to_space"))
    for _ in range(20):
        cache, stack = buffers(rng, WINDOW), buffers(rng, STACK)
        base_B = rng.integers(0, STACK - WINDOW, SLOTS, dtype=np.int32)
        length_B = rng.integers(1, WINDOW + 1, SLOTS, dtype=np.int32)
        moves_B = np.asarray(move.served(length_B, rng.random(SLOTS) < 0.5, most))
        zero_B = np.zeros_like(base_B)
        for into, out_of, into_B, out_of_B in ((stack, cache, base_B, zero_B), (cache, stack, zero_B, base_B)):
            places = into, out_of, into_B, out_of_B, length_B, moves_B
            found = copy(*places, axes=AXES, most=most, from_space=None, to_space=None)
            plain = copy(*places, axes=AXES, most=None, from_space=None, to_space=None)
            for new, other, old, source, axis in zip(found, plain, into, out_of, AXES):
                np.testing.assert_array_equal(new, other)
                new, old, source = rows(np.asarray(new), axis), rows(old, axis), rows(source, axis)
                np.testing.assert_array_equal(new[~moves_B], old[~moves_B])
                for b in np.flatnonzero(moves_B):
                    begin, end = into_B[b], into_B[b] + length_B[b]
                    np.testing.assert_array_equal(new[b, begin:end], source[b, out_of_B[b] : out_of_B[b] + length_B[b]])
                    np.testing.assert_array_equal(new[b, :begin], old[b, :begin])
                    np.testing.assert_array_equal(new[b, end + move.BLOCK :], old[b, end + move.BLOCK :])
