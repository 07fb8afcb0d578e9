"""The recursive decoder: the compiled `advance`, and the host loop that feeds it problems.

The host holds a queue of prompts. Each turn it puts new problems into free slots, starts one `advance`, and looks at one small
array: which slots have ended. It never looks at a token, a call or a context while a problem runs; `result.py` rebuilds the
text from the slot's log afterwards, while the device is busy with the next turn.

Shapes: B slots, W window, T log length, C tokens of a step.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from retune_jax.decoding.config import DecoderConfig
from retune_jax.decoding.reading import Tables, Words
from retune_jax.decoding.result import Result, rebuild
from retune_jax.decoding.state import RUNNING, Slots, State, create, fingerprint, mix
from retune_jax.decoding.step import step
from retune_jax.decoding.transition import transition
from retune_jax.protocol import ANSWER, STATUSES, Context


@partial(jax.jit, static_argnames=("graphdef", "words", "config"), donate_argnames=("state",))
def advance(graphdef, words: Words, config: DecoderConfig, params, tables: Tables, state: State):
    """`steps_per_advance` times a pass of the model and a transition.

    Returns the state, and int32 [4, B] for the host to look at: status, used, calls and deepest of each slot.
    """

    def turn(_, state):
        slots, cache = step(nnx.merge(graphdef, params), words, config, state.slots, state.cache)
        return transition(words, tables, config, State(slots, cache, state.stack))

    state = jax.lax.fori_loop(0, config.steps_per_advance, turn, state)
    slots = state.slots
    return state, jnp.stack([slots.status_B, slots.used_B, slots.calls_B, slots.deepest_B])


@partial(jax.jit, donate_argnames=("state",))
def refill(state: State, fresh_B, tokens_BW, known_B, problem_B) -> State:
    """Starts new problems in the slots marked `fresh`: their prompts, the prompts' lengths and their numbers."""
    slots = state.slots
    spare = slots.tokens_BX.shape[1] - tokens_BW.shape[1]
    tokens_BX = jnp.pad(tokens_BW, ((0, 0), (0, spare)))

    def start(value, old):
        return jnp.where(fresh_B.reshape(-1, *(1,) * (old.ndim - 1)), value, old)

    top_F = jnp.arange(slots.base_BF.shape[1]) == 0
    prompt_BF2 = jnp.where(top_F[:, None], fingerprint(tokens_BX, known_B)[:, None], 0).astype(jnp.uint32)
    started = {
        "tokens_BX": tokens_BX,
        "known_B": known_B,
        "segment_B": known_B,
        "problem_B": problem_B,
        "status_B": RUNNING,
        "prompt_BF2": prompt_BF2,
        "path_BF": jnp.where(top_F, mix(jnp.uint32(1)), 0).astype(jnp.uint32),
    }
    kept = ("log_BT", "stack_BA")  # above `used` and the stack's top, which are 0 again
    changed = {
        field.name: start(started.get(field.name, 0), getattr(slots, field.name)).astype(getattr(slots, field.name).dtype)
        for field in dataclasses.fields(Slots)
        if field.name not in kept
    }
    return dataclasses.replace(state, slots=dataclasses.replace(slots, **changed))


@jax.jit
def _row(values_BT, slot):
    return values_BT[slot]


class RecursiveDecoder:
    """Solves problems by recursion with one model. See the package for how."""

    def __init__(self, model: nnx.Module, tokenizer, config: DecoderConfig):
        """Takes the model's present weights.

        Args:
            model: any module with `init_cache(batch, window)`, which makes leaves [batch, kv_heads, window,
                head_width], and `step(tokens_BC, start_B, cache)`, which returns float32 logits [B, C, V] and the cache:
                token c of slot b stands at window index start_B[b] + c and attends to the indices up to its own.
            tokenizer: a `retune_jax.tokenizer.Tokenizer`, or anything with its `encode`, `bos`, `eos` and `pieces`.
            config: sizes and limits.
        """
        self.config = config
        self._encode = tokenizer.encode
        self._pieces = list(tokenizer.pieces)
        self._words = Words.of(tokenizer, config.opening)
        self._tables = Tables.of(self._pieces)
        self._graphdef, self._params = nnx.split(model)

    def solve(self, prompts: Sequence[str], progress: Callable[[int, int], None] | None = None) -> list[Result]:
        """Solves the problems and returns a result for each, in their order.

        Args:
            prompts: the top-level problems, as a task's `question` writes them.
            progress: called with (problems ended, problems) after each that ends.

        A prompt that does not fit into the window ends as `context_full` at once.
        """
        results: list[Result | None] = [None] * len(prompts)
        for ended, (number, result) in enumerate(self.stream(prompts), start=1):
            results[number] = result
            if progress is not None:
                progress(ended, len(prompts))
        return results

    def stream(
        self, prompts: Sequence[str], watch: Callable[[int, Context], None] | None = None
    ) -> Iterator[tuple[int, Result]]:
        """Solves the problems and yields (number, result) as they end.

        Args:
            prompts: as for `solve`.
            watch: called after every `advance` with the first problem that is being worked on, its number and its tree so
                far; contexts that are open have the status "running".
        """
        waiting = self._waiting(prompts)
        working: list[tuple[int, str] | None] = [None] * self.config.slots
        state = _create(self._graphdef, self.config, self._params)
        ended: list[tuple[int, str, np.ndarray, jax.Array | None]] = []
        while True:
            arrivals = {}
            for slot in (slot for slot, work in enumerate(working) if work is None):
                for number, prompt, ids in waiting:
                    if len(ids) <= self.config.window:
                        working[slot], arrivals[slot] = (number, prompt), (number, ids)
                        break
                    ended.append((number, prompt, np.array([STATUSES.index("context_full"), 0, 0, 0]), None))
            if arrivals:
                state = refill(state, *self._arrays(arrivals))
            busy = any(work is not None for work in working)
            if busy:
                state, report = advance(self._graphdef, self._words, self.config, self._params, self._tables, state)
            for number, prompt, facts, log_T in ended:  # the device works on in the meantime
                yield number, self._result(prompt, facts, log_T)
            if not busy:
                return
            ended = []
            for slot, facts in enumerate(np.asarray(report).T):
                if working[slot] is not None and facts[0] >= 0:
                    ended.append((*working[slot], facts, _row(state.slots.log_BT, slot)))
                    working[slot] = None
            if watch is not None and any(working):
                (number, prompt), slot = min((work, slot) for slot, work in enumerate(working) if work is not None)
                log_T = np.asarray(_row(state.slots.log_BT, slot))[: int(np.asarray(report)[1, slot])]
                watch(number, rebuild(prompt, "running", log_T, self._pieces))

    def _waiting(self, prompts: Sequence[str]) -> Iterator[tuple[int, str, list[int]]]:
        """The queue: number, prompt and the ids of the window that it opens."""
        for number, prompt in enumerate(prompts):
            yield number, prompt, [self._words.bos, *self._encode(f" {prompt}"), *self._words.opening]

    def _arrays(self, arrivals: dict[int, tuple[int, list[int]]]) -> tuple[np.ndarray, ...]:
        """Arguments of `refill` for new (number, ids) by slot."""
        slots = self.config.slots
        tokens_BW = np.zeros((slots, self.config.window), np.int32)
        fresh_B, known_B, problem_B = np.zeros(slots, bool), np.zeros(slots, np.int32), np.zeros(slots, np.int32)
        for slot, (number, ids) in arrivals.items():
            tokens_BW[slot, : len(ids)] = ids
            fresh_B[slot], known_B[slot], problem_B[slot] = True, len(ids), number
        return fresh_B, tokens_BW, known_B, problem_B

    def _result(self, prompt: str, facts: np.ndarray, log_T: jax.Array | None) -> Result:
        """What the host makes of a slot that has ended."""
        code, tokens, calls, depth = (int(fact) for fact in facts)
        status = STATUSES[code]
        log_T = np.zeros(0, np.int32) if log_T is None else np.asarray(log_T)[:tokens]
        context = rebuild(prompt, status, log_T, self._pieces, self.config.carry)
        text = context.segments[-1].text if context.segments else ""
        return Result(
            prompt=prompt,
            status=status,
            text=text,
            value=text.rpartition(ANSWER)[2].strip() if status == "ok" else "",
            context=context,
            calls=calls,
            tokens=tokens,
            depth=depth,
        )


@partial(jax.jit, static_argnames=("graphdef", "config"))
def _create(graphdef, config: DecoderConfig, params) -> State:
    return create(nnx.merge(graphdef, params), config)
