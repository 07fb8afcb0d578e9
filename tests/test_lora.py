"""Adapters are LoRA: nothing at first, scaled by alpha over rank, and apart from the base."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from small_llama import LORA, SHAPE, build, close, logits, parts, tokens, whole

from retune_jax.models import sharding
from retune_jax.models.llama import Llama
from retune_jax.models.lora import PROJECTIONS, LoraConfig, LoRAParam, Projection, merge


def projection(rank=1, alpha=2.0, dropout=0.0, width=2):
    """The projection of lora.py's worked example, and wider ones."""
    lora = LoraConfig(rank=rank, alpha=alpha, dropout=dropout, targets=("q",))
    made = Projection(width, width, lora, dtype=jnp.float32, param_dtype=jnp.float32, rngs=nnx.Rngs(0))
    made.kernel[...] = jnp.eye(width)
    return made


def test_the_worked_example_of_an_adapter():
    made = projection()
    made.lora.a[...] = jnp.array([[1.0], [1.0]])
    made.lora.b[...] = jnp.array([[0.0, 3.0]])
    np.testing.assert_array_equal(made(jnp.array([1.0, 2.0])), [1.0, 20.0])


def test_the_adapter_is_scaled_by_alpha_over_rank():
    x, a, b = jnp.array([1.0, 2.0]), jnp.full((2, 4), 0.5), jnp.ones((4, 2))
    added = {}
    for alpha in (4.0, 8.0):
        made = projection(rank=4, alpha=alpha)
        made.lora.a[...], made.lora.b[...] = a, b
        added[alpha] = made(x) - x
    close(added[4.0], x @ a @ b)
    close(added[8.0], 2 * (x @ a @ b))


@pytest.fixture(scope="module")
def fresh():
    """A model as training begins with it, wide enough for statistics."""
    lora = LoraConfig(rank=64, alpha=32.0, dropout=0.5, targets=PROJECTIONS)
    shape = dataclasses.replace(SHAPE, width=64, hidden=256)
    make = jax.jit(lambda key: Llama(shape, lora, remat="none", rngs=nnx.Rngs(params=key)))
    return shape, make(jax.random.key(0))


def test_a_fresh_adapter_changes_nothing_at_all(fresh):
    shape, tuned = fresh
    _, adapter, base = parts(tuned)
    thin = {sharding.path_name(path): x for path, x in jax.tree_util.tree_leaves_with_path(adapter)}
    assert all(bool((x == 0).all()) == name.endswith("/b") for name, x in thin.items())
    plain = nnx.merge(parts(build(shape, None))[0], base)
    tokens_BT = tokens(2, 9)
    np.testing.assert_array_equal(whole(tuned, tokens_BT), whole(plain, tokens_BT))


def test_a_begins_as_in_the_reference_implementation(fresh):
    """Uniform in ±1/sqrt(in), drawn anew for each layer and projection."""
    layers = parts(fresh[1])[1]["layers"]
    q, k, down = layers["attention"]["q"], layers["attention"]["k"], layers["feed_forward"]["down"]
    for a_LxDxR in (np.asarray(x["lora"]["a"]) for x in (q, down)):
        bound = a_LxDxR.shape[1] ** -0.5
        assert 0.99 * bound < np.abs(a_LxDxR).max() <= bound
        assert np.std(a_LxDxR) == pytest.approx(bound / 3**0.5, rel=0.02)
        assert np.abs(np.corrcoef(a_LxDxR.reshape(len(a_LxDxR), -1)) - np.eye(len(a_LxDxR))).max() < 0.1
    assert (q["lora"]["a"] != k["lora"]["a"]).mean() > 0.99


def test_dropout_drops_the_adapters_input_only_and_keeps_its_mean():
    wide = 2000
    made = projection(rank=1, alpha=1.0, dropout=0.25, width=wide)
    made.lora.a[...], made.lora.b[...] = jnp.ones((wide, 1)) / wide, jnp.ones((1, wide))
    x = jnp.ones((64, wide))
    sure, drawn = made(x), made(x, jax.random.key(0))
    close(sure, 2.0)
    shares = drawn[:, 0] - 1  # the base's own 1 is never dropped
    assert np.ptp(drawn, axis=1).max() < 1e-6
    assert np.mean(shares) == pytest.approx(1.0, abs=0.005)
    assert np.std(shares) == pytest.approx((0.25 / 0.75 / wide) ** 0.5, rel=0.3)


def test_dropout_needs_a_key_and_depends_on_nothing_else():
    model, tokens_BT = build(), tokens(2, 9)
    rows = (tokens_BT, np.arange(9)[None].repeat(2, 0), np.ones((2, 9), np.int32))
    still = whole(model, tokens_BT)
    np.testing.assert_array_equal(still, logits(model, *rows))
    one, again, other = (logits(model, *rows, jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - still).max() > 1e-2 and np.abs(one - other).max() > 1e-2
    certain = build(lora=dataclasses.replace(LORA, dropout=0.0))
    np.testing.assert_array_equal(logits(certain, *rows, jax.random.key(0)), still)


@pytest.mark.parametrize("targets", [PROJECTIONS, ("q", "v"), ("q", "k", "v", "o"), ("down",)], ids="-".join)
def test_each_named_projection_and_no_other_has_an_adapter(targets):
    lora = LoraConfig(rank=5, alpha=1.0, dropout=0.0, targets=targets)
    model = nnx.eval_shape(lambda: Llama(SHAPE, lora, remat="none", rngs=nnx.Rngs(0)))
    _, adapter, base = parts(model)
    shapes = {sharding.path_name(path): x.shape for path, x in jax.tree_util.tree_leaves_with_path(adapter)}
    widths = {"q": (16, 16), "k": (16, 8), "v": (16, 8), "o": (16, 16), "gate": (16, 24), "up": (16, 24), "down": (24, 16)}
    blocks = {name: "attention" if name in "qkvo" else "feed_forward" for name in PROJECTIONS}
    expected = {f"layers/{blocks[name]}/{name}/lora/a": (3, widths[name][0], 5) for name in targets}
    expected |= {f"layers/{blocks[name]}/{name}/lora/b": (3, 5, widths[name][1]) for name in targets}
    assert shapes == expected
    assert not any("lora" in sharding.path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(base))
    assert jax.tree.map(lambda x: x.shape, base) == jax.tree.map(lambda x: x.shape, parts(build(lora=None))[2])


def test_only_the_adapters_weights_are_of_its_kind():
    state = nnx.state(build())
    kinds = {sharding.path_name(path): type(x) for path, x in nnx.to_flat_state(state)}
    assert {name for name, kind in kinds.items() if kind is LoRAParam} == {name for name in kinds if "/lora/" in name}
    assert set(kinds.values()) == {LoRAParam, nnx.Param}


def test_a_merged_model_is_the_adapted_model():
    model = build()
    tokens_BT = tokens(2, 9)
    before = whole(model, tokens_BT)
    merged = merge(model)
    assert not jax.tree.leaves(nnx.state(merged, LoRAParam))
    close(whole(merged, tokens_BT), before)
    close(whole(model, tokens_BT), before)  # the model itself stays as it was
    assert np.abs(before - whole(build(seed=1), tokens_BT)).max() > 1e-2


def test_a_kernel_of_less_precision_keeps_its_adapter():
    model = build(dataclasses.replace(SHAPE, param_dtype="bfloat16"))
    merged = merge(model)
    kept, before = (jax.tree.leaves(nnx.state(each, LoRAParam)) for each in (merged, model))
    assert len(kept) == len(before) > 0
    np.testing.assert_array_equal(whole(merged, tokens(2, 9)), whole(model, tokens(2, 9)))


@pytest.mark.parametrize("change, words", [({"targets": ("q", "w")}, "'w' is not one of"), ({"rank": 0}, "lora.rank: 0")])
def test_an_adapter_that_cannot_be_is_refused(change, words):
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(LORA, **change)
