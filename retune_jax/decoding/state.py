"""All that the decoder keeps between two passes of the model: plain arrays, a row a slot.

A slot works on one problem. The context that it is writing is its *window*: token ids, and keys and values in the cache
that attention reads. The callers of that context lie one after another on the slot's *stack*, outermost first, each
exactly as long as its context was when it called. With `a` the top context, `b` its callee and `c` the active one:

    stack      a a a a a a b b b b · · · · · · · ·        base of c = known of a + known of b
    window     c c c c c g g g · · ·                      known = 5, then the guesses g
                                                          fed = 4: the last known token is always the next one to feed

`known`, `fed` and the like move only forward within a context, so what lies above them is never read: nothing is ever
cleared.

A pass costs what its arrays are long, so the active windows are no longer than the contexts at hand: the host picks one of a
few sizes (`windows`) between two advances. A slot whose context needs more, before the host has looked, waits for it: it is
the same slot later. The text does not depend on it.

Shapes: B slots, W window (longest context), X = live window + tokens of a step (so that a step at its end has somewhere to
write), F open contexts (max_depth + 1), A stack length, T log length, H key-value heads, D head width.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from retune_jax.decoding import memo
from retune_jax.decoding.config import DecoderConfig
from retune_jax.decoding.result import Work
from retune_jax.protocol import STATUSES

# A slot's status: an index into STATUSES once its problem has ended, before that one of these two.
SHORTEST = 96  # tokens of the smallest active window; a smaller one saves less than compiling it takes

RUNNING, ENDED = -1, -2
OK, BAD_CALL, MAX_DEPTH, CONTEXT_FULL, STACK_FULL, TOKEN_BUDGET, CALL_BUDGET, CYCLE = range(len(STATUSES))


@partial(jax.tree_util.register_dataclass)
@dataclass(frozen=True)
class Slots:
    """Everything about the slots but keys and values. All int32 unless stated.

    Of the active context:
        tokens_BX: its ids, `known` of them; above lie the guesses of the last step.
        known_B: how many of its tokens are certain: prompt, generated, pasted.
        fed_B: how many of those have keys and values in the cache.
        segment_B: index of the first token of the segment that is being generated.
        need_B: the length that the active window has to have for the slot to go on.
        source_B: index from which the next guess is copied; 0: from nowhere (draft.py).
        returned_B: 1 where the segment stands behind a returned value, 0 in the first of a context.
        clue_B: there, a hash of the value's first token and of the item by which caller and callee differ; else 0 (draft.py).

    Of the problem:
        status_B: RUNNING, ENDED (the segment has met EOS and waits for a transition) or an index into STATUSES.
        problem_B: its number in the queue, which the draws depend on.
        used_B: tokens generated, each segment's EOS counted.
        calls_B: calls made.
        deepest_B: most callers suspended at a time.
        log_BT: the tokens generated, in order over all contexts, each segment closed by a mark of result.py. With the prompt
            this determines the whole tree of contexts.
        logged_B: how long the log was before the segment that is being generated.
        score_B: float32, the log-probability of the segment so far, where a trace is asked for.
        work_BN: what it took, in the order of result.Work.

    Of its open contexts, outermost first, the active one at index `depth`:
        depth_B: how many callers are suspended.
        base_BF: where the context begins on the stack, or would if it called.
        known_BF: `known` of a suspended caller.
        path_BF: uint32, a hash of the calls that led to the context; the draws depend on it.
        prompt_BF2: uint32, two hashes of the tokens that opened the context.
        stack_BA: token ids of the suspended callers.
    """

    tokens_BX: jax.Array
    known_B: jax.Array
    fed_B: jax.Array
    segment_B: jax.Array
    need_B: jax.Array
    source_B: jax.Array
    returned_B: jax.Array
    clue_B: jax.Array
    status_B: jax.Array
    problem_B: jax.Array
    used_B: jax.Array
    calls_B: jax.Array
    deepest_B: jax.Array
    log_BT: jax.Array
    logged_B: jax.Array
    score_B: jax.Array
    work_BN: jax.Array
    depth_B: jax.Array
    base_BF: jax.Array
    known_BF: jax.Array
    path_BF: jax.Array
    prompt_BF2: jax.Array
    stack_BA: jax.Array


@partial(jax.tree_util.register_dataclass)
@dataclass(frozen=True)
class State:
    """The whole decoder.

    Attributes:
        slots: the bookkeeping.
        cache: keys and values of the active windows: what `model.init_cache` makes, of X tokens.
        stack: keys and values of the suspended callers, the same of A tokens.
        memory: what the guesses of the slots have taught (draft.py).
        memo: the solved subproblems (memo.py), or None.
    """

    slots: Slots
    cache: Any
    stack: Any
    memory: Any
    memo: Any


def windows(config: DecoderConfig) -> list[int]:
    """The sizes of active windows that are compiled where they are needed, in tokens: the longest context, 2/3 of it, …"""
    sizes = [config.window]
    while sizes[-1] > SHORTEST:
        sizes.append(max(SHORTEST, -(-2 * sizes[-1] // 3 // 16) * 16))
    return sizes[::-1]


def lengths(config: DecoderConfig) -> tuple[int, int]:
    """A and T: each with slack, because copies have a fixed length and write past what they need."""
    slack = config.window + config.tokens_per_step
    # A call that the memo answers takes three places of the log more than its mark.
    log = config.max_tokens + slack + 5 + (3 * config.max_calls if memo.is_used(config) else 0)
    log += 2 * config.max_calls + 1 if config.trace else 0  # a score a segment
    return config.stack_tokens + slack if config.calls else 0, log


def window_axes(model) -> tuple[int, ...]:
    """Which axis of each leaf of the model's cache is the window: the one that grows with it."""
    shapes = (jax.tree.leaves(jax.eval_shape(partial(model.init_cache, 1, window))) for window in (1, 2))
    return tuple(next(axis for axis in range(one.ndim) if one.shape[axis] != two.shape[axis]) for one, two in zip(*shapes))


def create(model, config: DecoderConfig, live: int, memory) -> State:
    """Empty slots, all of them waiting for a problem, with active windows of `live` tokens."""
    batch, contexts = config.slots, config.max_depth + 1 if config.calls else 1
    stack, log = lengths(config)
    window = live + config.tokens_per_step

    def empty(*shape, dtype=jnp.int32):
        return jnp.zeros((batch, *shape), dtype)

    slots = Slots(
        tokens_BX=empty(window),
        known_B=empty(),
        fed_B=empty(),
        segment_B=empty(),
        need_B=empty(),
        source_B=empty(),
        returned_B=empty(),
        clue_B=empty(),
        status_B=empty(),
        problem_B=empty(),
        used_B=empty(),
        calls_B=empty(),
        deepest_B=empty(),
        log_BT=empty(log),
        logged_B=empty(),
        score_B=empty(dtype=jnp.float32),
        work_BN=empty(len(Work._fields)),
        depth_B=empty(),
        base_BF=empty(contexts),
        known_BF=empty(contexts),
        path_BF=empty(contexts, dtype=jnp.uint32),
        prompt_BF2=empty(contexts, 2, dtype=jnp.uint32),
        stack_BA=empty(stack),
    )
    kept = stack if config.stack == "keep" else 0  # an offloaded one is not made on the device
    return State(slots, model.init_cache(batch, window), model.init_cache(batch, kept), memory, memo.create(config))


def take(values_BX, at_BN):
    """values_BX[b, at_BN[b, n]]; indices outside take the first or last value."""
    return jnp.take_along_axis(values_BX, at_BN, axis=1, mode="clip")


def pick(values_BX, at_B):
    """values_BX[b, at_B[b]]."""
    return take(values_BX, at_B[:, None])[:, 0]


def mix(bits):
    """Scatters the bits of uint32 values, so that nearby numbers become unrelated ones (the finaliser of MurmurHash3)."""
    bits = (bits ^ (bits >> 16)) * jnp.uint32(0x85EBCA6B)
    bits = (bits ^ (bits >> 13)) * jnp.uint32(0xC2B2AE35)
    return bits ^ (bits >> 16)


def fingerprint(tokens_BX, known_B):
    """Two 32-bit hashes of each window's first `known` tokens, [B, 2]: equal windows agree, others practically never."""
    at_BX = jax.lax.broadcasted_iota(jnp.uint32, tokens_BX.shape, 1)
    kept_BX = at_BX < known_B[:, None].astype(jnp.uint32)
    spot_BX = mix(tokens_BX.astype(jnp.uint32) * jnp.uint32(0x9E3779B1) + mix(at_BX + 1))
    hashes = [jnp.where(kept_BX, mix(spot_BX ^ jnp.uint32(seed)), 0).sum(1, dtype=jnp.uint32) for seed in (1, 2)]
    return jnp.stack(hashes, axis=1)
