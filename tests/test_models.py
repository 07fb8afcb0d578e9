"""The model is LLaMA, and rows, steps with a cache and remat give one and the same function.

Shapes: B rows or slots, T tokens of a row, C tokens of a step, L layers, D width, N heads of either kind, E head width.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from small_llama import LORA, SHAPE, build, close, parts, tokens, whole

from retune_jax.models import sharding
from retune_jax.models.llama import Llama, RMSNorm, apart, stacked
from retune_jax.models.lora import LoraConfig
from retune_jax.models.rope import rotate, turns

# Layers, against NumPy in float64


def rotated(x_BxTxNxE, positions_BxT, theta):
    """Rotary position embedding, one pair and one position at a time."""
    out = np.array(x_BxTxNxE, np.float64)
    half = out.shape[-1] // 2
    for b, t in np.ndindex(*out.shape[:2]):
        for i in range(half):
            angle = positions_BxT[b, t] * theta ** (-2 * i / (2 * half))
            turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
            out[b, t][:, [i, i + half]] = out[b, t][:, [i, i + half]] @ turn.T
    return out


def normed(x, scale, epsilon):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + epsilon) * scale


def reference(shape, lora, adapter, base, tokens_T):
    """LLaMA with adapters for one context, with a loop for everything that the model does at once."""
    adapter, base = (jax.tree.map(lambda x: np.asarray(x, np.float64), tree) for tree in (adapter, base))
    x_TxD = base["embedding"][tokens_T]
    length = len(tokens_T)
    for layer in range(shape.layers):
        here = jax.tree.map(lambda x, layer=layer: x[layer], {"base": base["layers"], "adapter": adapter["layers"]})

        def projected(x, block, name, here=here):
            thin = here["adapter"][block][name]["lora"]
            return x @ here["base"][block][name]["kernel"] + lora.alpha / lora.rank * (x @ thin["a"]) @ thin["b"]

        def heads(x, name, count, turn=True, projected=projected):
            y = projected(x, "attention", name).reshape(1, length, count, shape.head_width)
            return (rotated(y, np.arange(length)[None], shape.rope_theta) if turn else y)[0]

        x = normed(x_TxD, here["base"]["attention_norm"]["scale"], shape.norm_epsilon)
        q, k, v = heads(x, "q", shape.heads), heads(x, "k", shape.kv_heads), heads(x, "v", shape.kv_heads, turn=False)
        mixed = np.zeros((length, shape.heads, shape.head_width))
        for t, head in np.ndindex(length, shape.heads):
            group = head // (shape.heads // shape.kv_heads)
            scores = np.exp(k[: t + 1, group] @ q[t, head] / np.sqrt(shape.head_width))
            mixed[t, head] = scores / scores.sum() @ v[: t + 1, group]
        x_TxD = x_TxD + projected(mixed.reshape(length, -1), "attention", "o")
        x = normed(x_TxD, here["base"]["feed_forward_norm"]["scale"], shape.norm_epsilon)
        gate, up = projected(x, "feed_forward", "gate"), projected(x, "feed_forward", "up")
        x_TxD = x_TxD + projected(gate / (1 + np.exp(-gate)) * up, "feed_forward", "down")
    head = base["embedding"].T if shape.tied_embeddings else base["head"]
    return normed(x_TxD, base["norm"]["scale"], shape.norm_epsilon) @ head


def test_rotation_is_the_written_one():
    x = np.random.default_rng(0).normal(size=(2, 5, 3, 8)).astype(np.float32)
    positions = np.array([[0, 1, 2, 3, 400], [7, 7, 0, 1, 2]], np.int32)
    for theta in (10.0, 10_000.0, 1e6):
        close(rotate(x, turns(positions, 8, theta, None)), rotated(x, positions, theta), 1e-4)
    close(rotate(x, turns(np.zeros((2, 5), np.int32), 8, 10.0, None)), x)


def test_rotated_queries_and_keys_meet_by_their_distance():
    x = np.random.default_rng(0).normal(size=(2, 1, 1, 8)).astype(np.float32)

    def meet(here, there):
        q, k = (rotate(row[None], turns(np.array([[at]]), 8, 100.0, None)) for row, at in zip(x, (here, there)))
        return float((q * k).sum())

    assert meet(9, 4) == pytest.approx(meet(25, 20), abs=1e-5)
    assert meet(9, 4) != pytest.approx(meet(9, 5), abs=1e-2)


def test_norm_is_the_written_one_in_float32():
    norm = RMSNorm(6, 0.1, param_dtype=jnp.bfloat16)
    norm.scale[...] = jnp.arange(6, dtype=jnp.bfloat16)
    x = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
    close(norm(x), normed(np.float64(x), np.arange(6), 0.1))
    assert norm(jnp.asarray(x, jnp.bfloat16)).dtype == jnp.bfloat16


@pytest.mark.parametrize("kv_heads, tied", [(1, False), (2, True), (4, False)])
def test_the_model_is_the_written_one(kv_heads, tied):
    shape = dataclasses.replace(SHAPE, kv_heads=kv_heads, tied_embeddings=tied)
    model = build(shape)
    _, adapter, base = parts(model)
    assert ("head" in base) != tied
    tokens_BT = tokens(2, 9)
    expected = [reference(shape, LORA, adapter, base, row) for row in tokens_BT]
    close(whole(model, tokens_BT), expected, 1e-4)


def test_rope_theta_is_the_models_own():
    tokens_BT = tokens(1, 12)
    results = [whole(build(dataclasses.replace(SHAPE, rope_theta=theta)), tokens_BT) for theta in (500.0, 10_000.0)]
    assert np.abs(results[0] - results[1]).max() > 1e-2


def test_logits_are_float32_and_weights_keep_their_own_dtype():
    model = build(dataclasses.replace(SHAPE, dtype="bfloat16", param_dtype="bfloat16"))
    _, adapter, base = parts(model)
    assert {x.dtype for x in jax.tree.leaves(base)} == {jnp.dtype("bfloat16")}
    assert {x.dtype for x in jax.tree.leaves(adapter)} == {jnp.dtype("float32")}, "an adapter's updates are small"
    result = whole(model, tokens(2, 9))
    assert result.dtype == jnp.float32 and np.isfinite(result).all()
    full = whole(build(), tokens(2, 9))
    assert np.abs(result - full).max() < 0.1 * np.abs(full).max()
    cache = model.init_cache(2, 8)
    shapes = {(2, 2, 4, 8), (2, 2, 8, 4)}  # of keys and of values
    assert {(x.shape, x.dtype) for x in jax.tree.leaves(cache)} == {(shape, jnp.dtype("bfloat16")) for shape in shapes}


def test_a_token_sees_nothing_ahead_of_it():
    model, tokens_BT = build(), tokens(1, 12)
    changed = tokens_BT.copy()
    changed[0, 7] = (changed[0, 7] + 1) % SHAPE.vocab_size
    before, after = whole(model, tokens_BT), whole(model, changed)
    np.testing.assert_array_equal(before[0, :7], after[0, :7])
    assert (np.abs(before[0, 7:] - after[0, 7:]).max(-1) > 1e-4).all()


# The cache


def chunked(model, tokens_BT, lengths_B, chunk, starts_B, window):
    """Logits of each slot's tokens, fed `chunk` at a time; slot b begins at pass starts_B[b] and takes 1 to `chunk` tokens a
    pass. What is fed past its known tokens is rubbish, and so is what a slot that has not begun or has ended feeds."""
    step = jax.jit(lambda tokens_BC, start_B, cache: model.step(tokens_BC, start_B, cache))
    rng = np.random.default_rng(0)
    cache = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype), model.init_cache(len(tokens_BT), window))
    fed_B, found = np.zeros(len(tokens_BT), np.int32), [[] for _ in tokens_BT]
    turn = 0
    while (fed_B < lengths_B).any():
        feed = rng.integers(0, SHAPE.vocab_size, (len(tokens_BT), chunk), dtype=np.int32)
        count_B = np.minimum(rng.integers(1, chunk + 1, len(tokens_BT)), lengths_B - fed_B) * (turn >= starts_B)
        for b, count in enumerate(count_B):
            feed[b, :count] = tokens_BT[b, fed_B[b] : fed_B[b] + count]
        result, cache = step(feed, fed_B, cache)
        result = np.asarray(result)
        for b, count in enumerate(count_B):
            found[b].append(result[b, :count])
        fed_B, turn = fed_B + count_B, turn + 1
    return [np.concatenate(rows) for rows in found]


@pytest.mark.parametrize("chunk, kv_heads", [(1, 2), (3, 1), (3, 4), (8, 2)])
def test_steps_with_a_cache_are_the_whole_row(chunk, kv_heads):
    model = build(dataclasses.replace(SHAPE, kv_heads=kv_heads))
    tokens_BT, lengths_B = tokens(4, 20), np.array([20, 1, 9, 14])
    full = np.asarray(whole(model, tokens_BT))
    found = chunked(model, tokens_BT, lengths_B, chunk, starts_B=np.array([0, 3, 5, 1]), window=20 + chunk)
    for b, length in enumerate(lengths_B):
        close(found[b], full[b, :length])


def test_a_step_writes_its_own_slots_places_and_no_others():
    model = build()
    old = jax.tree.map(lambda x: x + 7, model.init_cache(3, 10))
    start_B = np.array([0, 4, 7], np.int32)
    _, new = model.step(tokens(3, 3), start_B, old)
    assert jax.tree.structure(new) == jax.tree.structure(old)
    assert len(jax.tree.leaves(new)) == 2 * 3, "keys and values of three layers"
    for before, after, window in zip(jax.tree.leaves(old), jax.tree.leaves(new), (3, 2) * 3):  # keys, values
        assert before.shape == after.shape and before.shape[window] == 10
        changed_BW = (np.asarray(before) != np.asarray(after)).any((1, 5 - window))
        np.testing.assert_array_equal(changed_BW, [[start <= w < start + 3 for w in range(10)] for start in start_B])


# Layers apart


@pytest.mark.parametrize("quantize", ["none", "int8", "nf4"])
def test_layers_apart_step_as_stacked_ones_do_to_the_bit(quantize):
    model = Llama(SHAPE, LORA, remat="none", rngs=nnx.Rngs(1), quantize=quantize)
    split = apart(model, donate=False)
    assert model.stacked and not split.stacked and not stacked(split)
    (one,) = stacked(nnx.Dict(model=model, split=split))
    assert one is model
    named, whole_ones = nnx.to_pure_dict(nnx.state(split.layers)), nnx.to_pure_dict(nnx.state(model.layers))
    for number in range(SHAPE.layers):
        jax.tree.map(lambda part, x, n=number: np.testing.assert_array_equal(part, x[n]), named[number], whole_ones)
    step = jax.jit(lambda model, tokens_BC, start_B, cache: model.step(tokens_BC, start_B, cache))
    start_B = np.array([0, 4, 7], np.int32)
    old = jax.tree.map(lambda x: x + 7, model.init_cache(3, 10))
    jax.tree.map(
        np.testing.assert_array_equal, step(split, tokens(3, 3), start_B, old), step(model, tokens(3, 3), start_B, old)
    )


def test_apart_takes_the_layers_arrays_only_where_they_are_given():
    model = Llama(SHAPE, LORA, remat="none", rngs=nnx.Rngs(1))
    layers = jax.tree.leaves(nnx.state(model.layers))
    kept = apart(model, donate=False)
    assert not any(leaf.is_deleted() for leaf in layers)
    taken = apart(model, donate=True)
    assert all(leaf.is_deleted() for leaf in layers)
    assert taken.embedding[...] is model.embedding[...] and taken.head[...] is model.head[...]
    jax.tree.map(np.testing.assert_array_equal, *(nnx.to_pure_dict(nnx.state(each)) for each in (kept, taken)))
    again = apart(taken, donate=True)
    assert jax.tree.leaves(nnx.state(again))[0] is jax.tree.leaves(nnx.state(taken))[0], "what is apart is left as it is"


@pytest.mark.parametrize("quantize", ["none", "int8", "nf4"])
def test_layers_apart_lie_on_a_mesh_as_their_part_of_the_stack_did(quantize):
    model = Llama(SHAPE, LORA, remat="none", rngs=nnx.Rngs(1), quantize=quantize)
    graphdef, state = nnx.split(model)
    model = nnx.merge(graphdef, jax.device_put(state, sharding.shardings(state, sharding.make_mesh(1, 2, 2))))
    split = nnx.to_pure_dict(nnx.state(apart(model, donate=False).layers))
    shares = 0
    for number in range(SHAPE.layers):
        for part, stack in zip(jax.tree.leaves(split[number]), jax.tree.leaves(nnx.state(model.layers)), strict=True):
            assert part.sharding.shard_shape(part.shape) == stack.sharding.shard_shape(stack.shape)[1:]
            assert part.sharding.mesh == stack.sharding.mesh
            shares += not part.sharding.is_fully_replicated
    assert shares > SHAPE.layers * 7


# Remat


def test_remat_changes_memory_and_neither_loss_nor_gradient():
    tokens_BT = tokens(2, 16)
    lora = LoraConfig(rank=3, alpha=1.5, dropout=0.0, targets=("q", "down"))
    _, adapter, base = parts(build(lora=lora))
    results, saved = {}, {}
    for remat in ("none", "dots", "full"):
        graphdef = parts(build(lora=lora, remat=remat))[0]

        def loss(adapter, graphdef=graphdef):
            model = nnx.merge(graphdef, adapter, base)
            return jnp.square(model(tokens_BT, jnp.arange(16)[None], jnp.ones_like(tokens_BT))).mean()

        results[remat] = jax.jit(jax.value_and_grad(loss))(adapter)
        backward = jax.eval_shape(lambda adapter, loss=loss: jax.vjp(loss, adapter)[1], adapter)
        saved[remat] = sum(x.size for x in jax.tree.leaves(backward))
    for remat in ("dots", "full"):
        jax.tree.map(close, results[remat], results["none"])
    assert saved["full"] < saved["dots"] < saved["none"]
    assert max(jnp.abs(g).max() for g in jax.tree.leaves(results["none"][1])) > 1e-3
