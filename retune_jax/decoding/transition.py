"""What happens between segments: calls open contexts, answers go back to their callers, problems end.

A transition treats all slots alike, without a branch: every outcome is worked out and each slot takes its own. For a slot
whose segment has ended:

    call      the caller's tokens, keys and values go onto the stack at `base`; the callee's window opens with
              BOS, its prompt (token ids as the caller wrote them) and the opening; depth + 1, base + known of the caller
    answer    the window is the caller's again, with its keys and values: nothing of it is computed twice;
              `Return: value` and `Answer:` are pasted behind; depth - 1. Without a caller, the problem is solved
    no use    the problem ends with the status that says why

A slot whose next context does not fit into the active window waits for the host to make it longer.

Two contexts are the same subproblem when the tokens that open them are the same; a call of a context that is open already
would go on for ever, and ends as `cycle`.

Shapes: B slots, X indices of a window, F open contexts, A stack length, T log length.
"""

import dataclasses

import jax
import jax.numpy as jnp

from retune_jax.decoding import move, result
from retune_jax.decoding.config import DecoderConfig
from retune_jax.decoding.reading import Reading, Tables, Words, read
from retune_jax.decoding.state import (
    BAD_CALL,
    CALL_BUDGET,
    CONTEXT_FULL,
    CYCLE,
    ENDED,
    MAX_DEPTH,
    OK,
    RUNNING,
    STACK_FULL,
    Slots,
    State,
    fingerprint,
    mix,
    pick,
    take,
)


def transition(words: Words, tables: Tables, config: DecoderConfig, state: State) -> State:
    """Moves every slot whose segment has ended on to its next one, or to the end of its problem."""
    slots = state.slots
    ended_B = slots.status_B == ENDED
    if not config.calls:
        slots = _log(slots, jnp.full_like(slots.status_B, result.ANSWERED), config)
        slots = dataclasses.replace(
            slots,
            status_B=jnp.where(ended_B, OK, slots.status_B),
            segment_B=jnp.where(ended_B, slots.known_B, slots.segment_B),
            need_B=slots.known_B,
        )
        return dataclasses.replace(state, slots=slots)

    with jax.named_scope("read"):
        reading = read(tables, slots.tokens_BX, slots.segment_B, slots.known_B)
    calls_B = ended_B & reading.is_call_B
    answers_B = ended_B & ~reading.is_call_B
    returns_B = answers_B & (slots.depth_B > 0)

    with jax.named_scope("open"):
        base_B, caller = pick(slots.base_BF, slots.depth_B), slots.depth_B - 1
        caller_base_B, caller_known_B = pick(slots.base_BF, caller), pick(slots.known_BF, caller)
        length = slots.tokens_BX.shape[1]
        kept = min(length, config.window)
        stack_BA = _put(slots.stack_BA, slots.tokens_BX[:, :kept], base_B)
        callers_BX = jnp.pad(_cut(stack_BA, caller_base_B, kept), ((0, 0), (0, length - kept)))
        copied = reading
        if not config.carry:  # a value is as good as empty
            low_B, spaced_B = jnp.where(calls_B, reading.low_B, reading.high_B), calls_B & reading.spaced_B
            copied = reading._replace(low_B=low_B, spaced_B=spaced_B)
        tokens_BX, value_B, length_B = _open(words, slots.tokens_BX, copied, calls_B, callers_BX, caller_known_B)
        prompt_B2 = fingerprint(tokens_BX, length_B)

    with jax.named_scope("judge"):
        open_BF = jnp.arange(slots.base_BF.shape[1]) <= slots.depth_B[:, None]
        cycle_B = (open_BF & (slots.prompt_BF2 == prompt_B2[:, None]).all(-1)).any(1)
        status_B = jnp.where(answers_B, jnp.where(returns_B, RUNNING, OK), slots.status_B)
        status_B = jnp.where(calls_B, RUNNING, status_B)
        # From the last reason to the first: where several hold, the first one is the status.
        for status, holds_B in (
            (STACK_FULL, calls_B & (base_B + slots.known_B > config.stack_tokens)),
            (CONTEXT_FULL, (calls_B | returns_B) & (length_B > config.window)),
            (CALL_BUDGET, calls_B & (slots.calls_B >= config.max_calls)),
            (MAX_DEPTH, calls_B & (slots.depth_B >= config.max_depth)),
            (CYCLE, calls_B & cycle_B),
            (BAD_CALL, ended_B & reading.is_bad_B),
        ):
            status_B = jnp.where(holds_B, status, status_B)
        waits_B = ended_B & (status_B == RUNNING) & (length_B > length)
        status_B = jnp.where(waits_B, ENDED, status_B)
        ended_B &= ~waits_B
        goes_on_B = ended_B & (status_B == RUNNING)
        call_B, return_B = goes_on_B & calls_B, goes_on_B & returns_B

    with jax.named_scope("move"):
        stack = move.store(state.stack, state.cache, base_B, slots.known_B, call_B)
        cache = move.load(state.cache, stack, caller_base_B, caller_known_B, return_B)
        # As far as callee and caller begin alike, the keys and values that lie in the window are the callee's, too.
        alike_B = jnp.argmin(jnp.pad(slots.tokens_BX == tokens_BX, ((0, 0), (0, 1))), axis=1).astype(jnp.int32)
        alike_B = jnp.minimum(alike_B, jnp.minimum(slots.known_B, length_B - 1))

    with jax.named_scope("log"):
        # An answer stays one when its value no longer fits behind the caller.
        answered_B = answers_B & ~reading.is_bad_B
        mark_B = jnp.where(call_B, result.CALLED, jnp.where(answered_B, result.ANSWERED, result.FAILED))
        slots = _log(slots, mark_B, config)

    with jax.named_scope("turn"):
        depth_B = slots.depth_B + call_B - return_B
        at_F = jnp.arange(slots.base_BF.shape[1])
        callee_BF = call_B[:, None] & (at_F == depth_B[:, None])
        caller_BF = call_B[:, None] & (at_F == slots.depth_B[:, None])
        known_BF = jnp.where(caller_BF, slots.known_B[:, None], slots.known_BF)
        # The place of the call in its caller tells it from the caller's other calls.
        path_B = mix(pick(slots.path_BF, slots.depth_B) * jnp.uint32(0x9E3779B1) + slots.known_B.astype(jnp.uint32))
        known_B = jnp.where(goes_on_B, length_B, slots.known_B)
        slots = dataclasses.replace(
            slots,
            tokens_BX=jnp.where(goes_on_B[:, None], tokens_BX, slots.tokens_BX),
            known_B=known_B,
            fed_B=jnp.where(call_B, alike_B, jnp.where(return_B, caller_known_B, slots.fed_B)),
            segment_B=jnp.where(ended_B, known_B, slots.segment_B),
            # A caller is the longer one, mostly, and the next to go on.
            need_B=jnp.maximum(jnp.where(waits_B, length_B, known_B), pick(known_BF, depth_B - 1)),
            source_B=jnp.where(goes_on_B, jnp.where(return_B, value_B, 0), slots.source_B),
            returned_B=jnp.where(goes_on_B, return_B, slots.returned_B),
            status_B=status_B,
            calls_B=slots.calls_B + call_B,
            deepest_B=jnp.maximum(slots.deepest_B, depth_B),
            depth_B=depth_B,
            base_BF=jnp.where(callee_BF, (base_B + slots.known_B)[:, None], slots.base_BF),
            known_BF=known_BF,
            path_BF=jnp.where(callee_BF, path_B[:, None], slots.path_BF),
            prompt_BF2=jnp.where(callee_BF[..., None], prompt_B2[:, None], slots.prompt_BF2),
            stack_BA=stack_BA,
        )
    return State(slots, cache, stack, state.memory)


def _open(words: Words, tokens_BX, reading: Reading, calls_B, callers_BX, caller_known_B):
    """The windows that the segments lead to, where the copied text begins in them, and their lengths, fitting or not.

    Every such window is five stretches: what was there before, words of ours, a space if the copied text brings none,
    text copied from the old window, words of ours:

        call      BOS         -          " "?  prompt  opening
        return    the caller  "Return:"  " "?  value   "\\nAnswer:"
    """
    before, space = _ids(words.returned), _ids(words.space)
    opening, answer = _ids(words.opening), _ids(words.answer)
    ends = (
        jnp.where(calls_B, 1, caller_known_B),
        jnp.where(calls_B, 0, len(words.returned)),
        jnp.where(reading.spaced_B, 0, len(words.space)),
        reading.high_B - reading.low_B,
        jnp.where(calls_B, len(words.opening), len(words.answer)),
    )
    end0_B1, end1_B1, end2_B1, end3_B1, end4_B1 = jnp.cumsum(jnp.stack(ends), axis=0)[..., None]
    at_BX = jax.lax.broadcasted_iota(jnp.int32, tokens_BX.shape, 1)

    def word(ids, begin_B1):
        return ids.at[at_BX - begin_B1].get(mode="clip")

    text_BX = jnp.where(calls_B[:, None], words.bos, callers_BX)
    text_BX = jnp.where(at_BX >= end0_B1, word(before, end0_B1), text_BX)
    text_BX = jnp.where(at_BX >= end1_B1, word(space, end1_B1), text_BX)
    text_BX = jnp.where(at_BX >= end2_B1, take(tokens_BX, reading.low_B[:, None] + at_BX - end2_B1), text_BX)
    last_BX = jnp.where(calls_B[:, None], word(opening, end3_B1), word(answer, end3_B1))
    return jnp.where(at_BX >= end3_B1, last_BX, text_BX), end1_B1[:, 0], end4_B1[:, 0]


def _ids(ids: tuple[int, ...]):
    """Word ids as an array that can be indexed even where the word is empty."""
    return jnp.array(ids or (0,), jnp.int32)


def _log(slots: Slots, mark_B, config: DecoderConfig) -> Slots:
    """Writes the current segments, and behind those that have ended a mark of what became of them."""
    length_B = slots.known_B - slots.segment_B
    count_BN = jax.lax.broadcasted_iota(jnp.int32, (slots.known_B.shape[0], slots.tokens_BX.shape[1] + 1), 1)
    count_BN = count_BN[:, : config.window + 1]
    text_BN = take(slots.tokens_BX, slots.segment_B[:, None] + count_BN)
    text_BN = jnp.where(count_BN == length_B[:, None], mark_B[:, None], text_BN)
    # A mark stands in the place of the EOS. A segment that goes on is written again, at the same place, next time; one
    # that has ended is over (`segment` is `known`), and what is written of it lies above `used`.
    ended_B = slots.status_B == ENDED
    return dataclasses.replace(slots, log_BT=_put(slots.log_BT, text_BN, slots.used_B - length_B - ended_B))


def _put(into_BN, values_BM, at_B):
    """Writes each row of values into its row at `at`."""
    return jax.vmap(lambda into, values, at: jax.lax.dynamic_update_slice(into, values, (at,)))(into_BN, values_BM, at_B)


def _cut(values_BN, at_B, length: int):
    """`length` values of each row from `at` on."""
    return jax.vmap(lambda values, at: jax.lax.dynamic_slice(values, (at,), (length,)))(values_BN, at_B)
