"""The loss, its gradient over micro-batches, and the update: what is compiled.

The loss of a global batch is Σ weight · cross-entropy / Σ segments, both sums over *all* its rows. Micro-batches hold
different numbers of segments, so that an average of their averages would be another loss: `gradient` adds up the sums
and divides once, and gives what one big batch gives.

Only `params` is differentiated. It holds the adapter, and `frozen` the base; or it holds all weights, and `frozen`
nothing.

Shape suffixes: B rows, T tokens (t: of a part), D model width, V vocabulary, A micro-batches, M rows of a micro-batch.
"""

from functools import partial

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from retune_jax.models import sharding

LOGITS = 2**24  # so many exist at a time


def sums(params, frozen, batch, dropout_key, *, graphdef):
    """Sums over a batch, which add up over batches.

    Args:
        params, frozen: the two parts of the model's state.
        batch: as `data.pipeline.train_batches` gives it.
        dropout_key: a PRNG key; None turns dropout off.
        graphdef: the model's, static.

    Returns:
        Σ weight · cross-entropy in nats, and a dict of the other sums: segments, target tokens, of them the ones that
        the model would generate, and tokens that are not padding.
    """
    model = nnx.merge(graphdef, params, frozen)
    x_BTD = model.stream(batch["tokens_BT"], batch["positions_BT"], batch["segment_ids_BT"], dropout_key)
    with jax.named_scope("loss"):
        loss, correct = cross_entropy(model.logits, x_BTD, batch["targets_BT"], batch["weights_BT"])
        counts = {
            "segments": batch["segments_B"].sum().astype(jnp.float32),
            "target_tokens": (batch["weights_BT"] > 0).sum(),
            "correct_tokens": correct,
            "tokens": (batch["segment_ids_BT"] > 0).sum(),
        }
        return loss, counts


def cross_entropy(logits, x_BTD, targets_BT, weights_BT):
    """Σ weight · cross-entropy in nats, and how many targets of some weight have the highest logit.

    The logits of a batch may be larger than all else that training keeps (2,048 tokens of 32,000 pieces: 250 MiB, several
    times). Beyond `LOGITS` they are made for some columns of the rows at a time, and made again for the gradient.

    Args:
        logits: the function that maps [B, t, D] to float32 [B, t, V].
        x_BTD, targets_BT, weights_BT: what it takes, the tokens to predict, and their shares in the loss.
    """
    length = x_BTD.shape[1]
    vocabulary = jax.eval_shape(logits, x_BTD).shape[-1]
    most = max(1, LOGITS * sharding.row_devices() // (x_BTD.shape[0] * vocabulary))  # columns at a time
    parts = next(count for count in range(1, length + 1) if length % count == 0 and length // count <= most)

    def add(total, part):
        return jax.tree.map(jnp.add, total, one(*part)), None

    def one(x_BtD, targets_Bt, weights_Bt):
        logits_BtV = logits(x_BtD)
        losses_Bt = optax.softmax_cross_entropy_with_integer_labels(logits_BtV, targets_Bt)
        picked_Bt = jnp.take_along_axis(logits_BtV, targets_Bt[..., None], axis=-1)[..., 0]
        hits_Bt = (weights_Bt > 0) & (picked_Bt >= logits_BtV.max(-1))
        return jnp.sum(losses_Bt * weights_Bt), hits_Bt.sum()

    if parts == 1:
        return one(x_BTD, targets_BT, weights_BT)
    rows = (x_BTD, targets_BT, weights_BT)
    cut = jax.tree.map(lambda x: x.reshape(x.shape[0], parts, -1, *x.shape[2:]).swapaxes(0, 1), rows)
    return jax.lax.scan(jax.checkpoint(add, prevent_cse=False), (jnp.zeros(()), jnp.zeros((), int)), cut)[0]


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
