"""Packed rows attend as their contexts do alone, whichever way the attention is computed, and never silently otherwise.

Shapes: B rows, T tokens of a row, K key-value heads, G queries a key-value head, E head width.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_llama import build, close, logits, tokens, whole

from retune_jax import config as recipes
from retune_jax.errors import UserError
from retune_jax.models import attention

PACKED = (np.array([5, 3, 8]), np.array([16]), np.array([1, 2, 1, 4]))  # contexts of three rows; padding is what is left


@pytest.mark.parametrize("block", [2, 3, 4, 64])
@pytest.mark.parametrize("kind, context_length", [("xla", None), ("xla", 4), ("xla", 8), ("xla", 16), ("flash", None)])
def test_a_packed_row_is_its_contexts_alone(kind, context_length, block, monkeypatch):
    """Also where attention is cut into blocks; contexts longer than was promised are left out."""
    monkeypatch.setattr(attention, "BLOCK", block)
    logits.clear_cache()  # it was compiled for another block
    cut = attention.local_mask(jnp.ones((1, 24), int), context_length).shape[2] < 24
    assert cut == (block < 64 and context_length in (4, 8, 16))
    fits = [row[row <= (context_length or 16)] for row in PACKED]
    length = 24
    tokens_BT, ids_BT, positions_BT = (np.zeros((len(fits), length), np.int32) for _ in range(3))
    places = []
    for b, row in enumerate(fits):
        start = 0
        for number, size in enumerate(row.tolist(), start=1):
            tokens_BT[b, start : start + size] = tokens(size, seed=100 * b + number)
            ids_BT[b, start : start + size] = number
            positions_BT[b, start : start + size] = range(size)
            places.append((b, slice(start, start + size)))
            start += size
    model = build(context_length=context_length, attention=kind)
    packed = np.asarray(logits(model, tokens_BT, positions_BT, ids_BT))
    assert np.isfinite(packed).all()
    # A token sees nothing ahead of it (tests/test_models.py), so that what fills these rows up is of no account.
    alone = whole(build(), [np.resize(tokens_BT[b, place], 16) for b, place in places])
    for (b, place), row in zip(places, np.asarray(alone)):
        close(packed[b, place], row[: place.stop - place.start])


def test_flash_looks_no_farther_back_than_the_contexts_that_came(monkeypatch):
    ids_BT = jnp.array([[1, 1, 1, 2, 2, 3, 3, 3]])
    np.testing.assert_array_equal(attention.reach(ids_BT, 2), [1, 2, 2, 2])  # the example of the module
    np.testing.assert_array_equal(attention.reach(jnp.ones((1, 8), int), 2), [1, 2, 3, 4])
    np.testing.assert_array_equal(attention.reach(jnp.array([[1, 1, 2, 2, 3, 0, 0, 0]]), 2), [1, 1, 1, 1])
    both = jnp.concatenate([ids_BT, jnp.ones((1, 8), int)])
    np.testing.assert_array_equal(attention.reach(both, 2), [1, 2, 3, 4])  # the longest of the batch


def rows(dtype, seed=0):
    """Queries, keys, values and a cotangent of three packed rows of 200 tokens, zero at padding, and their segment ids."""
    rng = np.random.default_rng(seed)
    ids_BT = np.zeros((3, 200), np.int32)
    for b, lengths in enumerate(([70, 3, 1, 100], [200], [64, 64, 1, 30])):
        ids_BT[b, : sum(lengths)] = np.repeat(np.arange(len(lengths)) + 1, lengths)
    shapes = [(3, 200, 2, 2, 16), (3, 200, 2, 16), (3, 200, 2, 16), (3, 200, 2, 2, 16)]
    q, k, v, cotangent = (jnp.asarray(rng.normal(0, size, shape), dtype) for size, shape in zip((0.5, 1, 1, 1), shapes))
    return q, k, v, cotangent * (ids_BT > 0)[..., None, None, None], ids_BT


def values_and_gradients(kind, dtype):
    *inputs, ids_BT = rows("bfloat16")  # the same numbers in either dtype
    q, k, v, cotangent = (x.astype(dtype) for x in inputs)

    @jax.jit
    def run(q, k, v):
        mixed, backward = jax.vjp(attention.over_rows(kind, ids_BT, None), q, k, v)
        return mixed * (cotangent != 0), backward(cotangent)

    return jax.tree.map(lambda x: np.asarray(x, np.float32), run(q, k, v))


def alike(found, expected, tolerance):
    """Apart by at most `tolerance` of the largest value of each array."""
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * np.abs(b).max()), found, expected)


@pytest.mark.parametrize("dtype, tolerance", [("float32", 5e-6), ("bfloat16", 2e-2)])
def test_flash_is_the_same_function_with_the_same_gradient(dtype, tolerance):
    """Rows of a length that blocks do not divide, contexts over several blocks, grouped queries."""
    alike(values_and_gradients("flash", dtype), values_and_gradients("xla", "float32"), tolerance)


def test_a_fused_kernel_that_cannot_run_is_refused_and_never_replaced():
    config = recipes.recipe("", task="parity")
    config.train.attention = "cudnn"
    with pytest.raises(UserError, match=r"config\.train\.attention: cudnn needs a GPU, and this is a cpu"):
        recipes.validate(config)
    q, k, v, _, ids_BT = rows("bfloat16")
    with pytest.raises(UserError, match="cudnn needs a GPU"):
        attention.over_rows("cudnn", ids_BT, None)(q, k, v)
    config.train.attention = "flesh"
    with pytest.raises(UserError, match="did you mean 'flash'"):
        recipes.validate(config)


@pytest.mark.gpu
@pytest.mark.skipif(shutil.which("nvidia-smi") is None, reason="no GPU on this machine")
def test_the_fused_kernel_honours_segment_ids():
    """In a process of its own, since the tests run on fake CPU devices: values and gradients are those of `xla`."""
    environment = {name: value for name, value in os.environ.items() if name not in ("JAX_PLATFORMS", "XLA_FLAGS")}
    here = Path(__file__)
    environment["PYTHONPATH"] = f"{here.parent}:{here.parents[1]}"
    subprocess.run([sys.executable, str(here)], check=True, env=environment, timeout=300)


if __name__ == "__main__":
    alike(values_and_gradients("cudnn", "bfloat16"), values_and_gradients("xla", "float32"), 2e-2)
