"""The loss, its gradient over micro-batches, and the update: what is compiled.

The loss of a global batch is Σ weight · cross-entropy / Σ segments, both sums over *all* its rows. Micro-batches hold
different numbers of segments, so that an average of their averages would be another loss: `gradient` adds up the sums
and divides once, and gives what one big batch gives.

Only `params` is differentiated. It holds the adapter, and `frozen` the base; or it holds all weights, and `frozen`
nothing.

Shape suffixes: B rows, T tokens, V vocabulary, A micro-batches, M rows of a micro-batch.
"""

from functools import partial

import jax
import jax.numpy as jnp
import optax
from flax import nnx


def sums(params, frozen, batch, dropout_key, *, graphdef):
    """Sums over a batch, which add up over batches.

    Args:
        params, frozen: the two parts of the model's state.
        batch: as `data.pipeline.train_batches` gives it.
        dropout_key: a PRNG key; None turns dropout off.
        graphdef: the model's, static.

    Returns:
        Σ weight · cross-entropy in nats, and a dict of the other sums: segments, target tokens, of them the ones that
        the model would generate (argmax), and tokens that are not padding.
    """
    model = nnx.merge(graphdef, params, frozen)
    logits_BTV = model(batch["tokens_BT"], batch["positions_BT"], batch["segment_ids_BT"], dropout_key)
    with jax.named_scope("loss"):
        losses_BT = optax.softmax_cross_entropy_with_integer_labels(logits_BTV, batch["targets_BT"])
        targeted_BT = batch["weights_BT"] > 0
        hits_BT = targeted_BT & (logits_BTV.argmax(-1) == batch["targets_BT"])
        counts = {
            "segments": batch["segments_B"].sum().astype(jnp.float32),
            "target_tokens": targeted_BT.sum(),
            "correct_tokens": hits_BT.sum(),
            "tokens": (batch["segment_ids_BT"] > 0).sum(),
        }
        return jnp.sum(losses_BT * batch["weights_BT"]), counts


def gradient(params, frozen, batch, dropout_key, *, graphdef, accumulate: int):
    """The loss of a global batch, its gradient by `params`, and the other sums, in `accumulate` micro-batches.

    Rows are dealt out in turn (row i goes to micro-batch i mod A), so that each device keeps the rows it has.
    """

    differentiate = jax.value_and_grad(partial(sums, graphdef=graphdef), has_aux=True)

    def micro(part):
        index, batch = part
        return differentiate(params, frozen, batch, jax.random.fold_in(dropout_key, index))

    def add(total, part):
        return jax.tree.map(jnp.add, total, micro(part)), None

    dealt_AM = jax.tree.map(lambda x: x.reshape(-1, accumulate, *x.shape[1:]).swapaxes(0, 1), batch)
    parts = (jnp.arange(accumulate), dealt_AM)
    shapes = jax.eval_shape(micro, jax.tree.map(lambda x: x[0], parts))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    ((loss, counts), grads), _ = jax.lax.scan(add, zeros, parts)
    segments = jnp.maximum(counts["segments"], 1)
    return loss / segments, jax.tree.map(lambda g: g / segments.astype(g.dtype), grads), counts


def make_step(graphdef, optimizer: optax.GradientTransformation, *, accumulate: int, shardings):
    """Compiles the update: `step(state, frozen, batch, dropout_key) -> state, metrics`.

    `state` is {"params", "optimizer"}; its buffers are given up to the result, which lies as `shardings` say.
    The metrics are scalars on the device: loss (nats a segment), token_accuracy, grad_norm (before clipping; of the
    trained parameters only), target_tokens, tokens, and fill, the share of the batch that is not padding.
    """

    @partial(jax.jit, donate_argnames="state", out_shardings=(shardings, None))
    def step(state, frozen, batch, dropout_key):
        loss, grads, counts = gradient(state["params"], frozen, batch, dropout_key, graphdef=graphdef, accumulate=accumulate)
        with jax.named_scope("optimizer"):
            updates, new = optimizer.update(grads, state["optimizer"], state["params"])
            params = optax.apply_updates(state["params"], updates)
        metrics = {
            "loss": loss,
            "token_accuracy": counts["correct_tokens"] / jnp.maximum(counts["target_tokens"], 1),
            "grad_norm": optax.tree.norm(grads),
            "target_tokens": counts["target_tokens"],
            "tokens": counts["tokens"],
            "fill": counts["tokens"] / batch["tokens_BT"].size,
        }
        return {"params": params, "optimizer": new}, metrics

    return step
