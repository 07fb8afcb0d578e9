"""A quantised base is the base rounded, in as many bytes as promised, and everything that reads it sees the same numbers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_run
from flax import nnx, traverse_util
from small_llama import SHAPE, close, tokens, whole

from retune_jax import config as recipes
from retune_jax import config_file, tokenizer
from retune_jax.checkpoints import exporting, importing, runs, weights
from retune_jax.errors import UserError
from retune_jax.models import lora, quantize, sharding
from retune_jax.models.llama import Llama
from retune_jax.models.lora import LoraConfig, LoRAParam

WIDE = dataclasses.replace(SHAPE, layers=2, width=64, hidden=128, head_width=16, tied_embeddings=True)
LORA = LoraConfig(rank=3, alpha=6.0, dropout=0.0, targets=("q", "down"))


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(0, 0.02, shape).astype(np.float32)


def test_int8_is_the_worked_example_and_errs_by_half_a_step():
    held = quantize.Int8(jnp.array([[0.5], [-1.0], [0.254]]))
    np.testing.assert_array_equal(held.codes[...][:, 0], [64, -127, 32])
    close(held.expanded(jnp.float32)[:, 0], [0.503937, -1.0, 0.251969])
    kernel = normal(96, 40) * np.exp(np.arange(40) / 10)
    apart = np.abs(quantize.rounded("int8", kernel) - kernel)
    assert (apart <= 0.5001 * np.abs(kernel).max(0) / 127).all()


def test_nf4_takes_the_nearest_of_its_values_in_each_block():
    kernel = normal(192, 24)
    kernel[:64, 3] = 0  # a block of nothing stays nothing
    found = quantize.rounded("nf4", kernel)
    assert (found[:64, 3] == 0).all()
    blocks, largest = (x.reshape(3, 64, 24) for x in (kernel, found))
    largest = np.abs(largest).max(1)
    # The second quantisation moves a block's scale by at most half a 127th of the largest distance from their mean.
    scales = np.abs(blocks).max(1)
    assert (np.abs(largest - scales) <= 0.5001 * np.abs(scales - scales.mean()).max() / 127).all()
    nearest = np.abs(quantize.NF4[:, None, None, None] * largest[:, None] - blocks).min(0)
    close(np.abs(found.reshape(blocks.shape) - blocks), nearest, 1e-7)
    assert quantize.rounded("nf4", kernel.astype(jnp.bfloat16)).dtype == jnp.bfloat16


@pytest.mark.parametrize("kind, most", [("int8", 1.01), ("nf4", 0.52)])
def test_a_kernel_takes_the_bytes_that_are_promised(kind, most):
    held = nnx.eval_shape(lambda: quantize.HELD[kind](jnp.zeros((4096, 11_008), jnp.bfloat16)))
    size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(nnx.state(held)))
    assert size / (4096 * 11_008) < most


def made(kind, params=None, dtype="float32"):
    """A model by `assemble`, with random weights or given ones, and a B that is not zero."""
    shape = dataclasses.replace(WIDE, dtype=dtype)
    mesh = sharding.make_mesh(1, 2, 2)
    base = weights.Base(shape, params, tokenizer.tiny())
    how = {"remat": "none", "context_length": None, "seed": 0, "mesh": mesh, "quantize": kind}
    graphdef, adapter, rest = nnx.split(weights.assemble(base, LORA, **how), LoRAParam, ...)
    adapter = jax.tree.map(lambda x: jnp.asarray(normal(*x.shape) * 10), adapter)
    return nnx.merge(graphdef, adapter, rest)


@pytest.fixture(scope="module")
def params():
    model = nnx.eval_shape(lambda: Llama(WIDE, None, remat="none", rngs=nnx.Rngs(0)))
    flat = traverse_util.flatten_dict(nnx.to_pure_dict(nnx.state(model)))
    filled = {path: normal(*x.shape, seed=i) * 8 + ("scale" in path) for i, (path, x) in enumerate(flat.items())}
    return traverse_util.unflatten_dict(filled)


def rounded(params, kind):
    """The base as it is after quantisation, a layer's kernel at a time."""
    flat = traverse_util.flatten_dict(params, sep="/")
    for name in flat:
        if name.endswith("/kernel"):
            flat[name] = np.stack([quantize.rounded(kind, kernel) for kernel in flat[name]])
    return traverse_util.unflatten_dict(flat, sep="/")


def loss_and_gradient(model, tokens_BT):
    graphdef, adapter, rest = nnx.split(model, LoRAParam, ...)
    ones = jnp.ones_like(tokens_BT)

    def loss(adapter):
        return jnp.square(nnx.merge(graphdef, adapter, rest)(tokens_BT, jnp.cumsum(ones, 1) - 1, ones)).mean()

    return jax.jit(jax.value_and_grad(loss))(adapter), jax.eval_shape(lambda a: jax.vjp(loss, a)[1], adapter)


@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_training_decoding_and_merging_see_the_rounded_base(kind, params):
    held, plain = made(kind, params), made("none", rounded(params, kind))
    tokens_BT = tokens(2, 12)
    found, kept = loss_and_gradient(held, tokens_BT)
    expected, kept_plain = loss_and_gradient(plain, tokens_BT)
    jax.tree.map(lambda a, b: close(a, b, 1e-4), found, expected)
    sizes = [sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree)) for tree in (kept, kept_plain)]
    kernels = sum(x.nbytes for x in jax.tree.leaves(params["layers"]))
    assert sizes[0] < sizes[1] - 0.7 * kernels, "no expanded kernel is kept for the backward pass"
    merged = lora.merge(held)
    assert all(module.lora is None for _, module in nnx.iter_graph(merged) if isinstance(module, lora.Projection))
    close(whole(merged, tokens_BT), whole(plain, tokens_BT), 1e-4)
    start = jnp.zeros(2, int)
    steps = [model.step(tokens_BT[:, :4], start, model.init_cache(2, 8))[0] for model in (held, plain)]
    close(*steps, 1e-4)
    assert np.abs(whole(made("none", params), tokens_BT) - whole(plain, tokens_BT)).max() > 1e-3, "rounding does something"


def test_a_bfloat16_model_keeps_its_quantised_kernels_when_merged():
    model = made("nf4", dtype="bfloat16")  # random weights
    assert np.isfinite(np.asarray(whole(lora.merge(model), tokens(1, 8)), np.float32)).all()
    codes = [module.kernel.codes[...] for _, module in nnx.iter_graph(lora.merge(model)) if isinstance(module, lora.Projection)]
    assert len(codes) == 7 and {x.dtype for x in codes} == {jnp.dtype("uint8")}


def test_weights_that_are_trained_are_not_quantised():
    config = recipes.recipe("", task="parity")
    config.quantize = "int8"
    recipes.validate(config)
    config.lora.rank = 0
    with pytest.raises(UserError, match=r"config\.quantize: int8 holds a base that is frozen"):
        recipes.validate(config)


@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_a_run_beside_a_quantised_base_is_loaded_and_exported_as_it_was_trained(kind, tmp_path):
    workdir = small_run.make(tmp_path)
    with (config := config_file.read_run(workdir)).unlocked():
        config.quantize = kind
    config_file.write(config, workdir / config_file.FILE)
    _, model, _ = runs.load_model(workdir, sharding.make_mesh(-1, 1, 1))
    assert isinstance(model.layers.attention.q.kernel, quantize.HELD[kind])
    exporting.export_hf(workdir, tmp_path / "exported")
    base = importing.import_base(tmp_path / "exported", tmp_path / "again", dtype=None, tokenizer=None)
    again = weights.load_base(str(tmp_path / "again"), "custom").params
    assert base.layers == 1
    for name in ("q", "down"):
        part = "attention" if name == "q" else "feed_forward"
        merged = getattr(getattr(lora.merge(model).layers, part), name).kernel[...]
        close(again["layers"][part][name]["kernel"][...], merged, 1e-6)
