"""The model is LLaMA, its adapters are LoRA, and rows, steps, meshes and remat give one and the same function.

Shapes: B rows or slots, T tokens of a row, C tokens of a step, L layers, D width, N heads of either kind, E head width.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from retune_jax import tokenizer
from retune_jax.errors import UserError
from retune_jax.models import presets, sharding
from retune_jax.models.llama import Llama, LlamaConfig, RMSNorm, rotate
from retune_jax.models.lora import PROJECTIONS, Adapter, LoraConfig, LoRAParam, Projection, merged

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
def build(shape=SHAPE, lora=LORA, remat="none", context_length=None, seed=0):
    """A model whose weights, B and the norms' scales included, are of a size that makes every part matter."""

    def initial():
        return Llama(shape, lora, remat=remat, context_length=context_length, rngs=nnx.Rngs(0))

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
        close(rotate(x, positions, theta), rotated(x, positions, theta), 1e-4)
    close(rotate(x, np.zeros((2, 5), np.int32), 10.0), x)


def test_rotated_queries_and_keys_meet_by_their_distance():
    x = np.random.default_rng(0).normal(size=(2, 1, 1, 8)).astype(np.float32)

    def meet(here, there):
        q, k = (rotate(row[None], np.array([[at]]), 100.0) for row, at in zip(x, (here, there)))
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
    assert {(x.shape, x.dtype) for x in jax.tree.leaves(cache)} == {((3, 2, 2, 8, 4), jnp.dtype("bfloat16"))}


# Packed rows


PACKED = (np.array([5, 3, 8]), np.array([16]), np.array([1, 2, 1, 4]))  # contexts of three rows; padding is what is left


@pytest.mark.parametrize("context_length", [None, 4, 8, 16])
def test_a_packed_row_is_its_contexts_alone(context_length):
    """Also where attention is cut into blocks; contexts too long for their blocks are left out."""
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
    packed = np.asarray(logits(build(context_length=context_length), tokens_BT, positions_BT, ids_BT))
    assert np.isfinite(packed).all()
    # A token sees nothing ahead of it (the next test), so that what fills these rows up is of no account.
    alone = whole(build(), [np.resize(tokens_BT[b, place], 16) for b, place in places])
    for (b, place), row in zip(places, np.asarray(alone)):
        close(packed[b, place], row[: place.stop - place.start])


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
    for before, after in zip(old, new):
        assert before.shape == after.shape == (3, 3, 2, 10, 4)
        changed_BW = (np.asarray(before) != np.asarray(after)).any((0, 2, 4))
        np.testing.assert_array_equal(changed_BW, [[start <= w < start + 3 for w in range(10)] for start in start_B])


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


# Adapters


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


def test_merged_kernels_are_the_adapted_model():
    model = build()
    base = parts(model)[2]
    for block, names in base["layers"].items():
        for name, weights in names.items() if not block.endswith("norm") else ():
            thin = getattr(getattr(model.layers, block), name).lora
            assert isinstance(thin, Adapter)
            weights["kernel"] = merged(weights["kernel"], thin)
    plain = nnx.merge(parts(build(lora=None))[0], base)
    tokens_BT = tokens(2, 9)
    close(whole(plain, tokens_BT), whole(model, tokens_BT))
    assert np.abs(whole(plain, tokens_BT) - whole(build(seed=1), tokens_BT)).max() > 1e-2


@pytest.mark.parametrize("change, words", [({"targets": ("q", "w")}, "'w' is not one of"), ({"rank": 0}, "lora.rank: 0")])
def test_an_adapter_that_cannot_be_is_refused(change, words):
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(LORA, **change)


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


@pytest.mark.parametrize("sizes", [(4, 1, 1), (2, 2, 1), (1, 2, 2), (1, 1, 4)], ids=str)
def test_a_mesh_computes_what_one_device_does(sizes, alone):
    mesh = sharding.make_mesh(*sizes)
    graphdef, adapter, base = parts(build())
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
