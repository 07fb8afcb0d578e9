"""The compiled update: the loss is the one that is written down, however the batch is cut and whatever is trained."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from retune_jax import config as recipes
from retune_jax.models.llama import Llama, LlamaConfig
from retune_jax.models.lora import LoraConfig, LoRAParam
from retune_jax.training import loss, optimizer

SHAPE = LlamaConfig(
    vocab_size=31,
    layers=2,
    width=16,
    heads=2,
    kv_heads=1,
    head_width=8,
    hidden=24,
    rope_theta=1e4,
    norm_epsilon=1e-5,
    tied_embeddings=True,
    dtype="float32",
    param_dtype="float32",
)
LORA = LoraConfig(rank=3, alpha=6.0, dropout=0.0, targets=("q", "down"))
KEY = jax.random.key(7)


@pytest.fixture(scope="module")
def split():
    return parts(LORA, "none")


def parts(lora, remat):
    """The model's parts; B is not zero, so that A has a gradient."""
    model = nnx.eval_shape(lambda: Llama(SHAPE, lora, remat=remat, rngs=nnx.Rngs(0)))
    graphdef, adapter, base = nnx.split(model, LoRAParam, ...)
    rng = np.random.default_rng(1)

    def drawn(state):
        return jax.tree.map(lambda x: jnp.asarray(rng.normal(0, 0.3, x.shape), x.dtype), nnx.to_pure_dict(state))

    return graphdef, drawn(adapter), drawn(base)


@pytest.fixture(scope="module")
def batch():
    """Eight rows with very different numbers of segments, targets and padding."""
    rng = np.random.default_rng(2)
    rows, length = 8, 12
    used = np.array([12, 3, 12, 5, 2, 12, 7, 9])
    within = np.arange(length) < used[:, None]
    cut = rng.integers(1, used)
    ids = np.where(np.arange(length) < cut[:, None], 1, 2) * within
    positions = np.where(ids == 2, np.arange(length) - cut[:, None], np.arange(length)) * within
    weights = rng.choice([0.0, 0.25, 1.0], (rows, length)) * within
    return {
        "tokens_BT": rng.integers(0, 31, (rows, length), dtype=np.int32),
        "targets_BT": rng.integers(0, 31, (rows, length), dtype=np.int32),
        "segment_ids_BT": ids.astype(np.int32),
        "positions_BT": positions.astype(np.int32),
        "weights_BT": weights.astype(np.float32),
        "segments_B": np.array([9, 1, 4, 2, 1, 7, 3, 5], np.int32),
    }


compiled = jax.jit(loss.gradient, static_argnames=("graphdef", "accumulate"))


def gradient(split, batch, accumulate):
    graphdef, params, frozen = split
    return compiled(params, frozen, batch, KEY, graphdef=graphdef, accumulate=accumulate)


def test_the_loss_is_the_weighted_cross_entropy_a_segment(split, batch):
    value, _, counts = gradient(split, batch, 1)
    model = nnx.merge(*split)
    logits = np.asarray(model(batch["tokens_BT"], batch["positions_BT"], batch["segment_ids_BT"]), np.float64)
    logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    picked = np.take_along_axis(logp, batch["targets_BT"][..., None], -1)[..., 0]
    np.testing.assert_allclose(value, -(picked * batch["weights_BT"]).sum() / 32, rtol=1e-5)
    targeted = batch["weights_BT"] > 0
    assert counts["target_tokens"] == targeted.sum()
    assert counts["correct_tokens"] == (targeted & (logits.argmax(-1) == batch["targets_BT"])).sum()
    assert (counts["segments"], counts["tokens"]) == (32, 62)


@pytest.mark.parametrize("accumulate", [2, 8])
def test_micro_batches_of_unequal_weight_give_what_the_big_batch_gives(split, batch, accumulate):
    whole, parts = gradient(split, batch, 1), gradient(split, batch, accumulate)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), whole, parts)
    per_row = [gradient(split, {k: v[i : i + 1] for k, v in batch.items()}, 1)[0] for i in range(8)]
    assert abs(np.mean(per_row) - whole[0]) > 0.01, "this batch would show an average of averages"


def test_the_gradient_is_that_of_the_loss(split, batch):
    graphdef, params, frozen = split
    _, grads, _ = gradient(split, batch, 1)
    rng = np.random.default_rng(3)
    direction = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype), params)
    slope = sum(jax.tree.leaves(jax.tree.map(lambda g, d: (g * d).sum(), grads, direction)))

    def at(distance):
        moved = jax.tree.map(lambda p, d: p + distance * d, params, direction)
        return gradient((graphdef, moved, frozen), batch, 1)[0]

    np.testing.assert_allclose((at(1e-3) - at(-1e-3)) / 2e-3, slope, rtol=2e-2)


@pytest.mark.parametrize("most, parts", [(8 * 31 * 5, 3), (31, 12)])
def test_logits_made_in_parts_give_the_loss_and_gradient_of_all_at_once(split, batch, most, parts, monkeypatch):
    """And are nowhere whole: of all arrays of the program with a vocabulary's width, the largest is a part's."""
    whole = gradient(split, batch, 1)
    monkeypatch.setattr(loss, "LOGITS", most)
    graphdef, params, frozen = split
    cut = jax.jit(lambda *args: loss.gradient(*args, graphdef=graphdef, accumulate=1))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), cut(params, frozen, batch, KEY), whole)
    program = str(jax.make_jaxpr(cut)(params, frozen, batch, KEY))
    assert f"f32[8,{12 // parts},31]" in program and "f32[8,12,31]" not in program and "f32[96,31]" not in program


def test_remat_changes_nothing_but_memory(split, batch):
    expected = gradient(split, batch, 1)
    for remat in ("dots", "full"):
        other = gradient(parts(LORA, remat), batch, 1)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), expected, other)


def test_dropout_differs_by_step_and_is_the_same_again(batch):
    lora = LoraConfig(rank=3, alpha=6.0, dropout=0.5, targets=("q", "down"))
    graphdef, adapter, base = parts(lora, "none")
    sums = jax.jit(loss.sums, static_argnames="graphdef")
    losses = [float(sums(adapter, base, batch, jax.random.fold_in(KEY, step), graphdef=graphdef)[0]) for step in (0, 1, 0)]
    assert losses[0] == losses[2] != losses[1]


def train_settings(**changes):
    train = recipes.recipe("", task="parity").train
    train.update(changes)
    return train


def test_the_step_clips_decays_and_reports_the_norm_before_clipping(split, batch):
    graphdef, params, frozen = split
    train = train_settings(schedule="constant", warmup=0, learning_rate=0.01, clip=1e-3, weight_decay=0.1)
    adamw = optimizer.make_optimizer(train)
    state = jax.tree.map(jnp.copy, {"params": params, "optimizer": adamw.init(params)})
    shardings = jax.tree.map(lambda x: x.sharding, state)
    step = loss.make_step(graphdef, adamw, accumulate=1, shardings=shardings)
    new, metrics = step(state, frozen, batch, KEY)
    _, grads, _ = gradient(split, batch, 1)
    norm = np.sqrt(sum(float((g**2).sum()) for g in jax.tree.leaves(grads)))
    np.testing.assert_allclose(metrics["grad_norm"], norm, rtol=1e-5)
    np.testing.assert_allclose(metrics["fill"], 62 / 96, rtol=1e-6)

    def expected(p, g):  # the first step of Adam: m / sqrt(v) is g / |g|
        g = g * 1e-3 / norm
        return p - 0.01 * (g / (jnp.abs(g) + 1e-8) + 0.1 * p)

    close = jax.tree.map(expected, params, grads)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5), new["params"], close)


def test_muon_turns_the_matrices_of_each_layer_alike_and_leaves_the_rest_to_adam():
    train = train_settings(optimizer="muon", schedule="constant", warmup=0, learning_rate=0.01, clip=1e9, weight_decay=0.0)
    muon = optimizer.make_optimizer(train)
    keys = jax.random.split(KEY, 2)
    params = {"kernel": jnp.zeros((2, 16, 16)), "embedding": jnp.zeros((31, 16))}
    grads = {"kernel": jax.random.normal(keys[0], (2, 16, 16)), "embedding": jax.random.normal(keys[1], (31, 16))}
    grads["kernel"] *= jnp.array([1.0, 1e-3])[:, None, None]  # a layer with small gradients steps as far as another
    updates, _ = muon.update(grads, muon.init(params), params)
    sizes = np.linalg.svd(updates["kernel"], compute_uv=False)
    assert sizes.min() > 0.003 and sizes.max() < 0.015, "all directions are about the rate"
    spread = np.linalg.svd(grads["kernel"], compute_uv=False)
    assert spread.max() / spread.min() > 1e3
    first = np.abs(updates["embedding"])  # every entry of Adam's first step is as long (with Nesterov's look ahead, 1.47 rates)
    np.testing.assert_allclose(first, first.mean(), rtol=1e-3)
    assert 0.001 <= first.mean() < 0.0015


@pytest.mark.parametrize(
    "changes, rates",
    [
        ({"schedule": "constant", "warmup": 0}, [1.0, 1.0, 1.0, 1.0, 1.0]),
        ({"schedule": "constant", "warmup": 1}, [0.5, 1.0, 1.0, 1.0, 1.0]),
        ({"schedule": "linear", "warmup": 1}, [0.5, 1.0, 0.75, 0.5, 0.25]),
        ({"schedule": "cosine", "warmup": 1}, [0.5, 1.0, 0.853553, 0.5, 0.146447]),
        ({"schedule": "constant", "warmup": 9}, [0.1, 0.2, 0.3, 0.4, 0.5]),
    ],
)
def test_schedules(changes, rates):
    schedule = optimizer.schedule(train_settings(steps=5, learning_rate=1.0, **changes))
    np.testing.assert_allclose([schedule(step) for step in range(5)], rates, rtol=1e-5)
