"""A Llama small enough for tests, with all its parts, and ways to run it.

Shapes: B rows or slots, T tokens of a row.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from retune_jax.models import sharding
from retune_jax.models.llama import Llama, LlamaConfig
from retune_jax.models.lora import PROJECTIONS, LoraConfig, LoRAParam

SHAPE = LlamaConfig(
    vocab_size=40,
    layers=3,
    width=16,
    heads=4,
    kv_heads=2,
    head_width=4,
    hidden=24,
    rope_theta=500.0,
    norm_epsilon=1e-3,
    tied_embeddings=False,
    dtype="float32",
    param_dtype="float32",
)
LORA = LoraConfig(rank=3, alpha=1.5, dropout=0.25, targets=PROJECTIONS)


@functools.cache
def build(shape=SHAPE, lora=LORA, remat="none", context_length=None, seed=0, attention="xla"):
    """A model whose weights, B and the norms' scales included, are of a size that makes every part matter."""

    def initial():
        how = {"remat": remat, "context_length": context_length, "attention": attention}
        return Llama(shape, lora, **how, rngs=nnx.Rngs(0))

    graphdef, state = nnx.split(nnx.eval_shape(initial))
    rng = np.random.default_rng(seed)

    def fill(path, leaf):
        name = sharding.path_name(path)
        size = 1 if name == "embedding" else 0.3 if "norm" in name else leaf.shape[-2] ** -0.5
        return jnp.asarray(rng.normal("norm" in name, size, leaf.shape), leaf.dtype)

    return nnx.merge(graphdef, jax.tree_util.tree_map_with_path(fill, state))


def parts(model):
    """The model's graph, adapter and base, the last two as nested dicts."""
    graphdef, adapter, base = nnx.split(model, LoRAParam, ...)
    return graphdef, nnx.to_pure_dict(adapter), nnx.to_pure_dict(base)


@jax.jit
def logits(model, tokens_BT, positions_BT, segment_ids_BT, dropout_key=None):
    return model(tokens_BT, positions_BT, segment_ids_BT, dropout_key)


def whole(model, tokens_BT):
    """Logits of rows that each hold one context."""
    tokens_BT = np.asarray(tokens_BT, np.int32)
    return logits(model, tokens_BT, np.broadcast_to(np.arange(tokens_BT.shape[1]), tokens_BT.shape), np.ones_like(tokens_BT))


def tokens(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, SHAPE.vocab_size, shape, dtype=np.int32)


def close(actual, expected, tolerance=1e-5):
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)
