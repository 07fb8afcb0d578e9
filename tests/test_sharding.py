"""Presets have the published sizes, and a mesh computes what one device does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from small_llama import build, close, parts, tokens

from retune_jax import tokenizer
from retune_jax.errors import UserError
from retune_jax.models import presets, sharding
from retune_jax.models.llama import Llama
from retune_jax.models.lora import PROJECTIONS, LoraConfig

# Presets


@pytest.mark.parametrize("name, count", [("llama_7b", 6_738_415_616), ("llama_13b", 13_015_864_320)])
def test_the_large_presets_have_the_published_number_of_parameters(name, count):
    model = nnx.eval_shape(lambda: Llama(presets.get(name), None, remat="full", rngs=nnx.Rngs(0)))
    leaves = jax.tree.leaves(nnx.state(model))
    assert all(isinstance(x, jax.ShapeDtypeStruct) for x in leaves), "no memory is taken"
    assert sum(x.size for x in leaves) == count


def test_the_tiny_preset_fits_its_tokenizer_and_its_size():
    model = nnx.eval_shape(lambda: Llama(presets.get("tiny"), None, remat="none", rngs=nnx.Rngs(0)))
    assert sum(x.size for x in jax.tree.leaves(nnx.state(model))) < 2_000_000
    assert presets.get("tiny").vocab_size >= tokenizer.tiny().vocab_size


def test_an_unknown_preset_is_named_with_the_known_ones():
    with pytest.raises(UserError, match=r"'llama_8b': choose one of tiny.*, llama_7b"):
        presets.get("llama_8b")


# Meshes


@jax.jit
def both_ways(model, tokens_BT):
    """Logits of whole rows, and of two steps with the cache that they leave."""
    ones = jnp.ones_like(tokens_BT)
    full = model(tokens_BT, jnp.cumsum(ones, axis=1) - 1, ones)
    first, cache = model.step(tokens_BT[:, :4], 0 * ones[:, 0], model.init_cache(len(tokens_BT), 12))
    second, cache = model.step(tokens_BT[:, 4:8], 4 * ones[:, 0], cache)
    return full, first, second, cache


@pytest.fixture(scope="module")
def alone():
    return both_ways(build(), tokens(8, 10))


@pytest.mark.parametrize(
    "sizes, attention",
    [((4, 1, 1), "xla"), ((2, 2, 1), "flash"), ((2, 2, 1), "xla"), ((1, 2, 2), "xla"), ((1, 1, 4), "xla")],
    ids=str,
)
def test_a_mesh_computes_what_one_device_does(sizes, attention, alone):
    mesh = sharding.make_mesh(*sizes)
    graphdef, adapter, base = parts(build(attention=attention))
    adapter, base = (jax.device_put(tree, sharding.shardings(tree, mesh)) for tree in (adapter, base))
    tokens_BT = jax.device_put(tokens(8, 10), jax.NamedSharding(mesh, sharding.BATCH))
    jax.tree.map(close, both_ways(nnx.merge(graphdef, adapter, base), tokens_BT), alone)


def test_every_large_array_of_a_model_is_split_over_the_mesh():
    """Only the norms' scales lie whole on every device."""
    mesh = sharding.make_mesh(1, 2, 2)
    lora = LoraConfig(rank=64, alpha=64.0, dropout=0.05, targets=PROJECTIONS)
    model = nnx.eval_shape(lambda: Llama(presets.get("llama_7b"), lora, remat="full", rngs=nnx.Rngs(0)))
    _, adapter, base = parts(model)
    for tree, pieces in ((base, 4), (adapter, 2)):
        for (path, leaf), where in zip(
            jax.tree_util.tree_leaves_with_path(tree), jax.tree.leaves(sharding.shardings(tree, mesh)), strict=True
        ):
            share = np.prod(where.shard_shape(leaf.shape)) / leaf.size
            assert share == (1 if "norm" in sharding.path_name(path) else 1 / pieces), sharding.path_name(path)


def test_an_optimizers_moments_lie_as_their_parameters():
    import optax

    mesh = sharding.make_mesh(1, 2, 2)
    _, adapter, _ = parts(build())
    state = optax.adamw(1e-3).init(adapter)
    where = sharding.shardings(state, mesh)
    assert where[0].mu == where[0].nu == sharding.shardings(adapter, mesh)
    assert where[0].count.spec == jax.P()


def test_a_dimension_that_does_not_divide_is_not_split():
    mesh = sharding.make_mesh(1, 2, 2)
    assert sharding.spec_of("head", (6, 8), mesh) == jax.P("fsdp", "tensor")
    assert sharding.spec_of("head", (7, 8), mesh) == jax.P(None, "tensor")
    assert sharding.spec_of("layers/attention/o/kernel", (3, 8, 5), mesh) == jax.P(None, "tensor", None)
    assert sharding.spec_of("norm/scale", (8,), mesh) == jax.P()


@pytest.mark.parametrize(
    "sizes, shape", [((-1, 1, 1), (4, 1, 1)), ((2, -1, 1), (2, 2, 1)), ((1, 2, -1), (1, 2, 2)), ((4, 1, -1), (4, 1, 1))]
)
def test_a_mesh_takes_all_devices(sizes, shape):
    mesh = sharding.make_mesh(*sizes)
    assert mesh.axis_names == ("data", "fsdp", "tensor") and mesh.devices.shape == shape
    assert set(mesh.axis_types) == {jax.sharding.AxisType.Auto}


@pytest.mark.parametrize("sizes", [(3, 1, 1), (-1, -1, 1), (8, 1, 1), (0, 1, -1), (-2, 1, 1), (-1, 8, 1), (1, 1, 1)], ids=str)
def test_a_mesh_that_does_not_fit_is_named(sizes):
    with pytest.raises(UserError, match=r"mesh \(data="):
        sharding.make_mesh(*sizes)


def test_a_run_is_laid_out_on_the_devices_there_are(monkeypatch, capsys):
    layouts = {(8, 1, 1): (4, 1, 1), (1, 8, 1): (1, 4, 1), (2, 2, 2): (1, 2, 2), (1, 1, 3): (4, 1, 1), (-1, 1, 8): (1, 1, 4)}
    for asked, given in layouts.items():
        assert tuple(sharding.fitting_mesh(*asked).shape.values()) == given
        assert capsys.readouterr().err.count("\n") == 1
    assert tuple(sharding.fitting_mesh(-1, 2, 1).shape.values()) == (2, 2, 1)
    assert capsys.readouterr().err == "", "what fits is taken as it is"
    with pytest.raises(UserError, match="sizes are positive"):
        sharding.fitting_mesh(0, 1, 1)


@pytest.mark.parametrize("sizes, gathers", [((1, 4, 1), True), ((4, 1, 1), False)], ids=str)
def test_fsdp_sends_weights_and_never_the_sums_of_activations(sizes, gathers):
    """The compiled gradient: a layer's weights are gathered where they are used; what is added up is the adapter's gradient."""
    import re

    mesh = sharding.make_mesh(*sizes)
    graphdef, adapter, base = parts(build())
    adapter, base = (jax.device_put(tree, sharding.shardings(tree, mesh)) for tree in (adapter, base))
    tokens_BT = jax.device_put(tokens(8, 40), jax.NamedSharding(mesh, sharding.BATCH))

    def loss(adapter, base, tokens_BT):
        ones = jnp.ones_like(tokens_BT)
        return nnx.merge(graphdef, adapter, base)(tokens_BT, jnp.cumsum(ones, axis=1) - 1, ones).mean()

    with jax.set_mesh(mesh):
        text = jax.jit(jax.grad(loss)).lower(adapter, base, tokens_BT).compile().as_text()
    summed = re.findall(r"= \(?\w+\[([\d,]*)\][^=]* all-reduce", text)
    sizes_summed = [np.prod([int(d) for d in dims.split(",") if d]) for dims in summed]
    largest = max(x.size for x in jax.tree.leaves(adapter))
    assert max(sizes_summed, default=0) <= largest < tokens_BT.size * 8, "activations are larger than any adapter here"
    assert ("all-gather" in text) == gathers
