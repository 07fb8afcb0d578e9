"""What happens between segments: calls open contexts, answers go back to their callers, problems end.

A transition treats all slots alike, without a branch: every outcome is worked out and each slot takes its own. For a slot
whose segment has ended:

    call      the caller's tokens, keys and values go onto the stack at `base`; the callee's window opens with
              BOS, its prompt (token ids as the caller wrote them) and the opening; depth + 1, base + known of the caller
    answer    the window is the caller's again, with its keys and values: nothing of it is computed twice;
              `Return: value` and `Answer:` are pasted behind; depth - 1. Without a caller, the problem is solved
    call      of a subproblem that the memo holds: as if its callee returned at once; the window stays, the value is pasted
    no use    the problem ends with the status that says why

A slot whose next context does not fit into the active window waits for the host to make it longer.

Two contexts are the same subproblem when the tokens that open them are the same; a call of a context that is open already
would go on for ever, and ends as `cycle`.

Shapes: B slots, X indices of a window, F open contexts, A stack length, T log length.
"""

import dataclasses

import jax
import jax.numpy as jnp

from retune_jax.decoding import draft, memo, move, result
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


def transition(
    words: Words, tables: Tables, config: DecoderConfig, axes: tuple[int, ...], state: State, mesh: jax.sharding.Mesh | None
) -> State:
    """Moves every slot whose segment has ended on to its next one, or to the end of its problem.

    `axes` are the cache's `state.window_axes`; `mesh` is what the slots are shared over, or None.
    """
    slots = state.slots
    ended_B = slots.status_B == ENDED
    if not config.calls:
        length_B = slots.known_B - slots.segment_B + 1 + config.trace
        marks = [jnp.full_like(slots.status_B, result.ANSWERED), *_scored(slots, config)]
        slots = _log(slots, jnp.stack(marks, axis=1), config)
        slots = dataclasses.replace(
            slots,
            logged_B=slots.logged_B + jnp.where(ended_B, length_B, 0),
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

    hit_B, facts, table = jnp.zeros_like(calls_B), None, state.memo
    if state.memo is not None:
        with jax.named_scope("memo"):
            table = _solve(config, state, copied, base_B, answers_B & ~reading.is_bad_B)
            opened, hit_B, facts = _recall(words, config, slots, table, base_B, prompt_B2)
            hit_tokens_BX, hit_value_B, hit_length_B = opened
            hit_B &= calls_B & (status_B == RUNNING)
            tokens_BX = jnp.where(hit_B[:, None], hit_tokens_BX, tokens_BX)
            value_B, length_B = jnp.where(hit_B, hit_value_B, value_B), jnp.where(hit_B, hit_length_B, length_B)

    with jax.named_scope("wait"):
        waits_B = length_B > length
        if config.stack != "recompute":
            most = move.blocks_at_a_time(*slots.tokens_BX.shape)
            going_B = ended_B & (status_B == RUNNING) & ~waits_B
            waits_B |= calls_B & ~hit_B & ~move.served(slots.known_B, going_B & calls_B & ~hit_B, most)
            waits_B |= returns_B & ~move.served(caller_known_B, going_B & returns_B, most)
        waits_B &= ended_B & (status_B == RUNNING)
        status_B = jnp.where(waits_B, ENDED, status_B)
        ended_B &= ~waits_B
        goes_on_B = ended_B & (status_B == RUNNING)
        hit_B &= goes_on_B
        call_B, return_B = goes_on_B & calls_B & ~hit_B, goes_on_B & returns_B

    with jax.named_scope("move"):
        cache, stack = state.cache, state.stack
        # As far as the old window and the new one are alike, the keys and values that lie there are good for both.
        alike_B = jnp.argmin(jnp.pad(slots.tokens_BX == tokens_BX, ((0, 0), (0, 1))), axis=1).astype(jnp.int32)
        fed_B = jnp.minimum(alike_B, jnp.minimum(slots.known_B, length_B - 1))
        if config.stack != "recompute":
            space = jax.memory.Space.Host if config.stack == "offload" else None
            stack = move.store(stack, cache, axes, base_B, slots.known_B, call_B, most, space, mesh)
            cache = move.load(cache, stack, axes, caller_base_B, caller_known_B, return_B, most, space, mesh)
            fed_B = jnp.where(return_B, caller_known_B, fed_B)

    with jax.named_scope("log"):
        # An answer stays one when its value no longer fits behind the caller.
        answered_B = answers_B & ~reading.is_bad_B
        mark_B = jnp.where(call_B, result.CALLED, jnp.where(answered_B, result.ANSWERED, result.FAILED))
        marks = [mark_B, *_scored(slots, config)]
        if facts is not None:
            marks[0] = jnp.where(hit_B, result.RECALLED, mark_B)
            marks += [facts.problem, facts.begin, facts.end]
        logged_B = slots.known_B - slots.segment_B + 1 + config.trace + 3 * hit_B
        logged_B = slots.logged_B + jnp.where(ended_B, logged_B, 0)
        slots = _log(slots, jnp.stack(marks, axis=1), config)

    if facts is not None:
        with jax.named_scope("memo"):
            table = _follow(slots, table, base_B, logged_B, call_B, return_B, hit_B, facts)

    with jax.named_scope("turn"):
        depth_B = slots.depth_B + call_B - return_B
        at_F = jnp.arange(slots.base_BF.shape[1])
        callee_BF = call_B[:, None] & (at_F == depth_B[:, None])
        caller_BF = call_B[:, None] & (at_F == slots.depth_B[:, None])
        known_BF = jnp.where(caller_BF, slots.known_B[:, None], slots.known_BF)
        # The place of the call in its caller tells it from the caller's other calls.
        path_B = mix(pick(slots.path_BF, slots.depth_B) * jnp.uint32(0x9E3779B1) + slots.known_B.astype(jnp.uint32))
        known_B = jnp.where(goes_on_B, length_B, slots.known_B)
        deepest_B, spared_B, spared_calls_B = depth_B, 0, 0
        nothing_B = jnp.zeros_like(depth_B)
        work = {"kept": jnp.where(call_B | return_B, fed_B, 0)}
        if facts is not None:
            deepest_B = jnp.where(hit_B, depth_B + 1 + facts.depth, depth_B)
            spared_B, spared_calls_B = jnp.where(hit_B, facts.tokens, 0), jnp.where(hit_B, facts.calls + 1, 0)
            work |= {"spared": spared_B, "recalled": hit_B.astype(jnp.int32)}
        slots = dataclasses.replace(
            slots,
            tokens_BX=jnp.where(goes_on_B[:, None], tokens_BX, slots.tokens_BX),
            known_B=known_B,
            fed_B=jnp.where(goes_on_B, fed_B, slots.fed_B),
            segment_B=jnp.where(ended_B, known_B, slots.segment_B),
            # A caller is the longer one, mostly, and the next to go on.
            need_B=jnp.maximum(jnp.where(waits_B, length_B, known_B), pick(known_BF, depth_B - 1)),
            source_B=jnp.where(goes_on_B, jnp.where(call_B, 0, value_B), slots.source_B),
            returned_B=jnp.where(goes_on_B, ~call_B, slots.returned_B),
            clue_B=jnp.where(goes_on_B, jnp.where(return_B, draft.clue(tokens_BX, value_B, alike_B), 0), slots.clue_B),
            status_B=status_B,
            calls_B=slots.calls_B + call_B + spared_calls_B,
            used_B=slots.used_B + spared_B,
            deepest_B=jnp.maximum(slots.deepest_B, deepest_B),
            logged_B=logged_B,
            score_B=jnp.where(ended_B, 0, slots.score_B),
            work_BN=slots.work_BN + jnp.stack([work.get(name, nothing_B) for name in result.Work._fields], axis=1),
            depth_B=depth_B,
            base_BF=jnp.where(callee_BF, (base_B + slots.known_B)[:, None], slots.base_BF),
            known_BF=known_BF,
            path_BF=jnp.where(callee_BF, path_B[:, None], slots.path_BF),
            prompt_BF2=jnp.where(callee_BF[..., None], prompt_B2[:, None], slots.prompt_BF2),
            stack_BA=stack_BA,
        )
    return State(slots, cache, stack, state.memory, table)


def _solve(config: DecoderConfig, state: State, value: Reading, base_B, solved_B) -> memo.Memo:
    """The memo with the contexts that have answered; `value` says where in their windows."""
    slots, table = state.slots, state.memo

    def active(values_BFN):
        return jnp.take_along_axis(values_BFN, slots.depth_B[:, None, None], axis=1)[:, 0]

    deepest_B, highest_B = active(table.reach_BF2).T
    tokens_B, calls_B, begin_B = active(table.begun_BF3).T
    facts = memo.Facts(
        length=value.high_B - value.low_B,
        spaced=value.spaced_B,
        tokens=slots.used_B - tokens_B,
        calls=slots.calls_B - calls_B,
        depth=deepest_B - slots.depth_B,
        stack=highest_B - base_B,
        problem=slots.problem_B,
        begin=begin_B,
        end=slots.logged_B + slots.known_B - slots.segment_B + 1 + config.trace,
    )
    value_BV = take(slots.tokens_BX, value.low_B[:, None] + jnp.arange(table.value_MV.shape[1]))
    return memo.keep(table, solved_B, active(slots.prompt_BF2), value_BV, facts)


def _recall(words: Words, config: DecoderConfig, slots: Slots, table: memo.Memo, base_B, prompt_B2):
    """What `_open` says of the windows that the memo's values lead to, which calls they may answer, and the memo's facts."""
    found_B, value_BV, facts = memo.find(table, prompt_B2)
    nothing_B = jnp.zeros_like(found_B)
    value = Reading(nothing_B, nothing_B, jnp.zeros_like(facts.length), facts.length, facts.spaced > 0)
    opened = _open(words, value_BV, value, nothing_B, slots.tokens_BX, slots.known_B)
    fits_B = (opened[2] <= config.window) & (slots.used_B + facts.tokens <= config.max_tokens)
    fits_B &= slots.calls_B + 1 + facts.calls <= config.max_calls
    fits_B &= slots.depth_B + 1 + facts.depth <= config.max_depth
    fits_B &= base_B + slots.known_B + facts.stack <= config.stack_tokens
    return opened, found_B & fits_B, facts


def _follow(slots: Slots, table: memo.Memo, base_B, logged_B, call_B, return_B, hit_B, facts: memo.Facts) -> memo.Memo:
    """The memo with what it has to know of the open contexts: where a callee begins, how far its callees go."""
    depth_B1, at_F = slots.depth_B[:, None], jnp.arange(slots.base_BF.shape[1])
    active_BF1, callee_BF1, caller_BF1 = ((at_F == depth_B1 + step)[..., None] for step in (0, 1, -1))
    end_B = base_B + slots.known_B  # where a callee's own callee would begin
    reach_BF2, begun_BF3 = table.reach_BF2, table.begun_BF3
    recalled_B2 = jnp.stack([slots.depth_B + 1 + facts.depth, end_B + facts.stack], axis=1)
    recalls_BF1 = active_BF1 & hit_B[:, None, None]
    reach_BF2 = jnp.where(recalls_BF1, jnp.maximum(reach_BF2, recalled_B2[:, None]), reach_BF2)
    opened_B2 = jnp.stack([slots.depth_B + 1, end_B], axis=1)
    opens_BF1 = callee_BF1 & call_B[:, None, None]
    reach_BF2 = jnp.where(opens_BF1, opened_B2[:, None], reach_BF2)
    begun_B3 = jnp.stack([slots.used_B, slots.calls_B + 1, logged_B], axis=1)
    begun_BF3 = jnp.where(opens_BF1, begun_B3[:, None], begun_BF3)
    returned_B2 = jnp.take_along_axis(reach_BF2, depth_B1[..., None], axis=1)
    reach_BF2 = jnp.where(caller_BF1 & return_B[:, None, None], jnp.maximum(reach_BF2, returned_B2), reach_BF2)
    return dataclasses.replace(table, begun_BF3=begun_BF3, reach_BF2=reach_BF2)


def _open(words: Words, text_BN, reading: Reading, calls_B, callers_BX, caller_known_B):
    """The windows that the segments lead to, where the copied text begins in them, and their lengths, fitting or not.

    Every such window is five stretches: what was there before, words of ours, a space if the copied text brings none,
    text copied from `text` where the reading says, words of ours:

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
    at_BX = jax.lax.broadcasted_iota(jnp.int32, callers_BX.shape, 1)

    def word(ids, begin_B1):
        return ids.at[at_BX - begin_B1].get(mode="clip")

    text_BX = jnp.where(calls_B[:, None], words.bos, callers_BX)
    text_BX = jnp.where(at_BX >= end0_B1, word(before, end0_B1), text_BX)
    text_BX = jnp.where(at_BX >= end1_B1, word(space, end1_B1), text_BX)
    text_BX = jnp.where(at_BX >= end2_B1, take(text_BN, reading.low_B[:, None] + at_BX - end2_B1), text_BX)
    last_BX = jnp.where(calls_B[:, None], word(opening, end3_B1), word(answer, end3_B1))
    return jnp.where(at_BX >= end3_B1, last_BX, text_BX), end1_B1[:, 0], end4_B1[:, 0]


def _ids(ids: tuple[int, ...]):
    """Word ids as an array that can be indexed even where the word is empty."""
    return jnp.array(ids or (0,), jnp.int32)


def _scored(slots: Slots, config: DecoderConfig) -> list[jax.Array]:
    """What stands behind a mark in a trace: the segment's log-probability, as a number that cannot be taken for a mark."""
    return [jnp.round(-slots.score_B / result.SCORE).astype(jnp.int32)] if config.trace else []


def _log(slots: Slots, marks_BN, config: DecoderConfig) -> Slots:
    """Writes the current segments, and behind them the marks, which hold where the segment has ended."""
    length_B1 = (slots.known_B - slots.segment_B)[:, None]
    length = min(slots.tokens_BX.shape[1], config.window) + marks_BN.shape[1]
    count_BN = jax.lax.broadcasted_iota(jnp.int32, (slots.known_B.shape[0], length), 1)
    text_BN = take(slots.tokens_BX, slots.segment_B[:, None] + count_BN)
    text_BN = jnp.where(count_BN >= length_B1, take(marks_BN, count_BN - length_B1), text_BN)
    # The first mark stands in the place of the EOS. A segment that goes on is written again, at the same place, next time.
    return dataclasses.replace(slots, log_BT=_put(slots.log_BT, text_BN, slots.logged_B))


def _put(into_BN, values_BM, at_B):
    """Writes each row of values into its row at `at`."""
    return jax.vmap(lambda into, values, at: jax.lax.dynamic_update_slice(into, values, (at,)))(into_BN, values_BM, at_B)


def _cut(values_BN, at_B, length: int):
    """`length` values of each row from `at` on."""
    return jax.vmap(lambda values, at: jax.lax.dynamic_slice(values, (at,), (length,)))(values_BN, at_B)
