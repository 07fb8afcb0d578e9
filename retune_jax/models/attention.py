"""Attention of packed rows to themselves: each token looks at the earlier tokens of its own context, and at nothing else.

A row holds many contexts, told apart by segment ids, so that most of a T x T product of queries and keys would be masked.
Three ways to leave it out, by `config.train.attention`; what they give differs by rounding only:

- `flash` works on blocks of queries in turn, and for each on the blocks of keys from its own back to where the context of its
  first query begins, and no farther: that place is read from the segment ids, so that the work follows the lengths that came.
  Scores of one pair of blocks live at a time (Dao et al., 2022, arXiv 2205.14135: a softmax kept as running maximum, total
  and weighted sum; the backward pass computes the scores anew). On a CPU three to four times as fast as `xla`, as everything
  stays in the cache. The number of blocks looked at is known at run time only: on a GPU its loop waits for the host.
- `xla` multiplies each block of queries with its own and so many blocks before it as the longest context takes, at once.
- `cudnn` is NVIDIA's fused kernel, on a GPU and in half precision only. It gets the same mask as a bias, so that it honours
  the segment ids. It is used where it was asked for and nowhere else; where it cannot run, that is an error.

With contexts of 3, 2 and 3 tokens in a row of 8 and blocks of 2, the segment ids are [1 1 1 2 2 3 3 3]. The blocks' first
queries have contexts that begin in blocks 0, 0, 1 and 2: `flash` multiplies 1, 2, 2 and 2 pairs of blocks, 7 out of 16.

Shape suffixes: B rows, T tokens of a row, K key-value heads, G queries per key-value head, E head width; n blocks of a row,
of Q queries each, R = G·Q; N = B·n blocks of all rows, with S keys in reach.
"""

from functools import partial

import jax
import jax.numpy as jnp

from retune_jax.errors import UserError

KINDS = ("flash", "xla", "cudnn")

BLOCK = 64  # queries that attend together

NEVER = -1e30


def over_rows(kind: str, segment_ids_BT, context_length: int | None):
    """What all layers do with the same rows: a function of queries [B, T, K, G, E], scaled, and keys and values [B, T, K, E].

    Args:
        kind: one of `KINDS`.
        segment_ids_BT: int32; equal ids stand together. What padding (0) gives is finite, and means nothing.
        context_length: an upper bound of the contexts' lengths, for `xla`; None: there is none.

    Returns:
        The function, which gives [B, T, K, G, E] in the dtype of the values.
    """
    if kind == "flash":
        return _flash_over(segment_ids_BT)
    if kind == "cudnn":
        return partial(_cudnn, mask_BxTxT=local_mask(segment_ids_BT, None))
    return partial(_local, mask_NxQxS=local_mask(segment_ids_BT, context_length))


# All the keys within reach at once


def within_reach(x_BxTx___, block: int, before: int):
    """What the queries of each block may have to look at: [B, T, …] to [N, S, …], a block and so many before it."""
    batch, length, *rest = x_BxTx___.shape
    count = length // block
    blocks = x_BxTx___.reshape(batch, count, block, *rest)
    padded = jnp.pad(blocks, ((0, 0), (before, 0), *((0, 0),) * (blocks.ndim - 2)))
    reached = jnp.concatenate([padded[:, shift : shift + count] for shift in range(before + 1)], axis=2)
    return reached.reshape(-1, (before + 1) * block, *rest)


def local_mask(segment_ids_BxT, context_length: int | None):
    """Which token attends to which, [N, Q, S]: to its own segment, and not ahead.

    A token's segment begins less than `context_length` before it: it is enough to look at its own block of the row and as
    many before it as that takes.

    Args:
        segment_ids_BxT: of packed rows; 0 is padding.
        context_length: an upper bound of the contexts' lengths; None attends over whole rows.

    Returns:
        A boolean mask of N = B · T/Q blocks of Q queries and S keys, which `within_reach` puts in the same order.
    """
    batch, length = segment_ids_BxT.shape
    block, before = BLOCK, -(-((context_length or length) - 1) // BLOCK)
    if length % block or (before + 1) * block >= length:
        block, before = length, 0
    places_BxT = jnp.broadcast_to(jnp.arange(length) + 1, (batch, length))  # 0 stands before the row
    queries = segment_ids_BxT.reshape(-1, block, 1), places_BxT.reshape(-1, block, 1)
    keys = (within_reach(x, block, before)[:, None] for x in (segment_ids_BxT, places_BxT))
    segments, places = zip(queries, keys)
    return (segments[0] == segments[1]) & (places[0] >= places[1]) & (places[1] > 0)


def _local(q_BxTxKxGxE, k_BxTxKxE, v_BxTxKxE, *, mask_NxQxS):
    block, before = mask_NxQxS.shape[1], mask_NxQxS.shape[2] // mask_NxQxS.shape[1] - 1
    q = q_BxTxKxGxE.reshape(-1, block, *q_BxTxKxGxE.shape[2:])
    k, v = (within_reach(x, block, before) for x in (k_BxTxKxE, v_BxTxKxE))
    scores_NxKxGxQxS = jnp.einsum("nqkge,nske->nkgqs", q, k, preferred_element_type=jnp.float32)
    scores_NxKxGxQxS = jnp.where(mask_NxQxS[:, None, None], scores_NxKxGxQxS, NEVER)
    shares = jax.nn.softmax(scores_NxKxGxQxS, axis=-1).astype(v.dtype)
    return jnp.einsum("nkgqs,nske->nqkge", shares, v).reshape(q_BxTxKxGxE.shape)


def check(kind: str):
    """Refuses, by a `UserError`, what cannot run on this machine."""
    if kind == "cudnn" and jax.default_backend() != "gpu":
        raise UserError(f"config.train.attention: cudnn needs a GPU, and this is a {jax.default_backend()}")


def _cudnn(q_BxTxKxGxE, k_BxTxKxE, v_BxTxKxE, *, mask_BxTxT):
    check("cudnn")
    if q_BxTxKxGxE.dtype not in (jnp.bfloat16, jnp.float16):
        raise UserError(f"config.train.attention: cudnn needs a model in half precision, and this is {q_BxTxKxGxE.dtype}")
    batch, length, heads, group, width = q_BxTxKxGxE.shape
    mixed = jax.nn.dot_product_attention(
        q_BxTxKxGxE.reshape(batch, length, heads * group, width),
        k_BxTxKxE,
        v_BxTxKxE,
        mask=mask_BxTxT[:, None],
        scale=1.0,
        implementation="cudnn",
    )
    return mixed.reshape(q_BxTxKxGxE.shape)


# A pair of blocks at a time


def reach(segment_ids_BxT, block: int):
    """How many blocks of keys the queries of each block have to look at, their own and those before it: [n].

    As many as the row takes in which the context of the block's first query begins farthest back. The other queries of the
    block begin later, or with it.
    """
    places_T = jnp.arange(segment_ids_BxT.shape[1])
    opens_BxT = segment_ids_BxT != jnp.roll(segment_ids_BxT, 1, axis=1)
    begins_BxT = jax.lax.cummax(jnp.where(opens_BxT, places_T, 0), axis=1)  # of the token's context
    begins_BxT = jnp.where(segment_ids_BxT > 0, begins_BxT, places_T)  # nobody reads what padding looks at
    return places_T[::block] // block - begins_BxT[:, ::block].min(0) // block + 1


def _flash_over(segment_ids_BT):
    fill = -segment_ids_BT.shape[1] % BLOCK
    ids_BT = jnp.pad(segment_ids_BT, ((0, 0), (0, fill)))
    ids_nxBxQ = ids_BT.reshape(ids_BT.shape[0], -1, BLOCK).swapaxes(0, 1)
    reach_n = reach(ids_BT, BLOCK)

    def attend(q_BxTxKxGxE, k_BxTxKxE, v_BxTxKxE):
        batch, length, heads, group, width = q_BxTxKxGxE.shape
        q, k, v = (jnp.pad(x, ((0, 0), (0, fill), *((0, 0),) * (x.ndim - 2))) for x in (q_BxTxKxGxE, k_BxTxKxE, v_BxTxKxE))
        q_nxBxKxRxE = q.reshape(batch, -1, BLOCK, heads, group, width).transpose(1, 0, 3, 4, 2, 5)
        q_nxBxKxRxE = q_nxBxKxRxE.reshape(-1, batch, heads, group * BLOCK, width)
        k, v = (x.reshape(batch, -1, BLOCK, heads, width).transpose(1, 0, 3, 2, 4) for x in (k, v))
        mixed = _flash(q_nxBxKxRxE, k, v, ids_nxBxQ, reach_n)
        mixed = mixed.reshape(-1, batch, heads, group, BLOCK, width).transpose(1, 0, 4, 2, 3, 5)
        return mixed.reshape(batch, -1, heads, group, width)[:, :length]

    return attend


@jax.custom_vjp
def _flash(q_nxBxKxRxE, k_nxBxKxQxE, v_nxBxKxQxE, ids_nxBxQ, reach_n):
    """Softmax attention block by block: the same shape as the queries."""
    return _forward(q_nxBxKxRxE, k_nxBxKxQxE, v_nxBxKxQxE, ids_nxBxQ, reach_n)[0]


def _forward(q_nxBxKxRxE, k_nxBxKxQxE, v_nxBxKxQxE, ids_nxBxQ, reach_n):
    dtype, shape = q_nxBxKxRxE.dtype, q_nxBxKxRxE.shape[1:]

    def mix(_, number):
        q, ids_q = _at(q_nxBxKxRxE, number), _at(ids_nxBxQ, number)

        def look(back, running):
            top, total, mixed = running
            k, v, ids_k = (_at(x, number - back) for x in (k_nxBxKxQxE, v_nxBxKxQxE, ids_nxBxQ))
            scores = _scores(q, k, ids_q, ids_k, back)
            higher = jnp.maximum(top, scores.max(-1, keepdims=True))
            shares, faded = jnp.exp(scores - higher), jnp.exp(top - higher)
            total = total * faded + shares.sum(-1, keepdims=True)
            return higher, total, mixed * faded + _product("bkrq,bkqe->bkre", shares.astype(dtype), v)

        thin = (*shape[:-1], 1)
        empty = jnp.full(thin, NEVER), jnp.zeros(thin), jnp.zeros(shape)
        # The own block comes first. A token always sees itself, so that the maximum is a score from then on.
        top, total, mixed = jax.lax.fori_loop(0, reach_n[number], look, empty)
        return None, ((mixed / total).astype(dtype), top + jnp.log(total))

    mixed, log_total = jax.lax.scan(mix, None, jnp.arange(len(reach_n)))[1]
    return mixed, (q_nxBxKxRxE, k_nxBxKxQxE, v_nxBxKxQxE, ids_nxBxQ, reach_n, mixed, log_total)


def _backward(saved, grad_nxBxKxRxE):
    q_nxBxKxRxE, k_nxBxKxQxE, v_nxBxKxQxE, ids_nxBxQ, reach_n, mixed, log_total = saved
    dtype, shape = q_nxBxKxRxE.dtype, q_nxBxKxRxE.shape[1:]
    common = jnp.sum(grad_nxBxKxRxE.astype(jnp.float32) * mixed, axis=-1, keepdims=True)

    def unmix(grads, number):
        of_queries = (q_nxBxKxRxE, ids_nxBxQ, grad_nxBxKxRxE, log_total, common)
        q, ids_q, grad, log_total_q, common_q = (_at(x, number) for x in of_queries)

        def look(back, grads):
            dq, dk, dv = grads
            other = number - back
            k, v, ids_k = (_at(x, other) for x in (k_nxBxKxQxE, v_nxBxKxQxE, ids_nxBxQ))
            shares = jnp.exp(_scores(q, k, ids_q, ids_k, back) - log_total_q)
            slopes = (shares * (_product("bkre,bkqe->bkrq", grad, v) - common_q)).astype(dtype)
            dq += _product("bkrq,bkqe->bkre", slopes, k)
            dk = _add_at(dk, other, _product("bkrq,bkre->bkqe", slopes, q))
            dv = _add_at(dv, other, _product("bkrq,bkre->bkqe", shares.astype(dtype), grad))
            return dq, dk, dv

        dq, *grads = jax.lax.fori_loop(0, reach_n[number], look, (jnp.zeros(shape), *grads))
        return tuple(grads), dq.astype(dtype)

    zeros = jnp.zeros(k_nxBxKxQxE.shape)
    (dk, dv), dq = jax.lax.scan(unmix, (zeros, zeros), jnp.arange(len(reach_n)))
    return dq, dk.astype(dtype), dv.astype(dtype), None, None


_flash.defvjp(_forward, _backward)


def _scores(q_BxKxRxE, k_BxKxQxE, ids_BxQ, key_ids_BxQ, back):
    """Scores [B, K, R, Q] of a block of queries and the one of keys that stands `back` blocks before it."""
    sees_BxQxQ = (ids_BxQ[:, :, None] == key_ids_BxQ[:, None]) & ((back > 0) | jnp.tri(ids_BxQ.shape[1], dtype=bool))
    sees_BxRxQ = jnp.tile(sees_BxQxQ, (1, q_BxKxRxE.shape[2] // ids_BxQ.shape[1], 1))
    return jnp.where(sees_BxRxQ[:, None], _product("bkre,bkqe->bkrq", q_BxKxRxE, k_BxKxQxE), NEVER)


_product = partial(jnp.einsum, preferred_element_type=jnp.float32)


def _at(x, number):
    return jax.lax.dynamic_index_in_dim(x, number, keepdims=False)


def _add_at(x, number, more):
    return jax.lax.dynamic_update_index_in_dim(x, _at(x, number) + more, number, 0)
