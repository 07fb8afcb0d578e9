import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from retune_jax import tasks, tokenizer
from retune_jax.data.encode import encode
from retune_jax.models.llama import Llama, LlamaConfig

CASES = [
    ("parity", "retune", "[1, 0, 1, 1]"),
    ("addition", "retune", "348 + 57"),
    ("dynamic_programming", "retune", "[3, -2, 5]"),  # two calls in the top context
    ("parity", "scratchpad", "[1, 0, 1]"),
    ("parity", "baseline", "[1, 0, 1]"),
]


@pytest.fixture(scope="module")
def tiny():
    return tokenizer.tiny()


@pytest.fixture(scope="module")
def gradient(tiny):
    """Function: one sequence to its loss and gradient by a random LLaMA."""
    shape = LlamaConfig(
        vocab_size=tiny.vocab_size,
        layers=2,
        width=16,
        heads=2,
        kv_heads=1,
        head_width=8,
        hidden=24,
        rope_theta=10_000.0,
        norm_epsilon=1e-6,
        tied_embeddings=False,
        dtype="float32",
        param_dtype="float32",
    )
    rng = np.random.default_rng(0)
    abstract = nnx.eval_shape(lambda: Llama(shape, None, remat="none", rngs=nnx.Rngs(0)))
    graphdef, params = nnx.split(abstract)
    params = jax.tree.map(lambda x: rng.normal(0, 0.3, x.shape).astype(np.float32), params)

    @jax.jit
    @jax.value_and_grad
    def loss(params, tokens_BT, targets_BT, weights_BT):
        ids_BT = jnp.ones_like(tokens_BT)
        logits_BTV = nnx.merge(graphdef, params)(tokens_BT, jnp.arange(tokens_BT.shape[1])[None], ids_BT)
        losses_BT = optax.softmax_cross_entropy_with_integer_labels(logits_BTV, targets_BT)
        return (losses_BT * weights_BT).sum()

    def padded(tokens, targets, weights):
        room = (0, 256 - len(tokens))  # one length, compiled once; what follows changes nothing before it
        return loss(params, *(np.pad(x, room)[None] for x in (tokens, targets, weights)))

    return padded


def example(task_name, method, text):
    task = tasks.get(task_name)
    context = task.written(task.parse(text), method)
    return {"inputs": context.inputs(task.opening(method)), "outputs": context.outputs()}


def split(tiny, example, weigh):
    """The authors' training sequences: one a segment, all text before it as the input."""
    before = ""
    for given, output in zip(example["inputs"], example["outputs"], strict=True):
        before += given
        known, generated = [tiny.bos, *tiny.encode(before)], [*tiny.encode(output), tiny.eos]
        tokens = (known + generated)[:-1]
        targets = (known + generated)[1:]
        weights = np.zeros(len(tokens), np.float32)
        weights[-len(generated) :] = len(generated) ** {"sum": 0, "mean": -1, "root": -0.5}[weigh]
        yield np.array(tokens, np.int32), np.array(targets, np.int32), weights
        before += output


@pytest.mark.parametrize("weigh", ["sum", "mean", "root"])
@pytest.mark.parametrize("case", CASES, ids=" ".join)
def test_whole_context_has_loss_and_gradient_of_the_split_segments(case, weigh, tiny, gradient):
    whole = encode(tiny, example(*case), weigh)
    parts = list(split(tiny, example(*case), weigh))
    assert whole["segments"] == len(parts)

    loss, grads = gradient(whole["tokens_T"], whole["targets_T"], whole["weights_T"])
    losses, gradients = zip(*(gradient(*part) for part in parts))

    np.testing.assert_allclose(loss, sum(losses), rtol=1e-5)
    summed = jax.tree.map(lambda *g: sum(g), *gradients)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), grads, summed)


def test_whole_context_is_about_half_the_tokens(tiny):
    case = example("parity", "retune", str([1] * 21))
    assert len(encode(tiny, case, "sum")["tokens_T"]) < 0.55 * sum(len(part[0]) for part in split(tiny, case, "sum"))


def test_every_generated_token_and_end_is_predicted_and_nothing_else(tiny):
    case = example("parity", "retune", "[1, 0]")
    encoded = encode(tiny, case, "sum")
    assert {name: array.dtype.name for name, array in encoded.items() if name != "segments"} == {
        "tokens_T": "int32",
        "targets_T": "int32",
        "weights_T": "float32",
    }
    predicted = encoded["targets_T"][encoded["weights_T"] > 0].tolist()
    assert predicted == [token for output in case["outputs"] for token in (*tiny.encode(output), tiny.eos)]
    assert tiny.eos not in encoded["tokens_T"]
    assert tiny.decode(encoded["tokens_T"][1:].tolist()) == "".join(
        given + output for given, output in zip(case["inputs"], case["outputs"])
    )


def test_mean_weighs_each_segment_one(tiny):
    encoded = encode(tiny, example("dynamic_programming", "retune", "[3, -2, 5]"), "mean")
    assert encoded["segments"] == 3
    assert encoded["weights_T"].sum() == pytest.approx(3)
