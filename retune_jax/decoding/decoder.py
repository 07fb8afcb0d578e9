"""The recursive decoder: the compiled `advance`, and the host loop that feeds it problems.

The host holds a queue of prompts. Each turn it puts new problems into free slots, starts one `advance`, and looks at one small
array: which slots have ended. It never looks at a token, a call or a context while a problem runs; `result.py` rebuilds the
text from the slot's log afterwards, while the device is busy with the next turn.

Shapes: B slots, W window, T log length, C tokens of a step.
"""

import dataclasses
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from retune_jax.decoding import memory, result
from retune_jax.decoding.config import DecoderConfig
from retune_jax.decoding.draft import Memory
from retune_jax.decoding.reading import Tables, Words
from retune_jax.decoding.result import Result, Work
from retune_jax.decoding.state import RUNNING, Slots, State, create, fingerprint, mix, window_axes, windows
from retune_jax.decoding.step import step
from retune_jax.decoding.transition import transition
from retune_jax.models.llama import apart, stacked
from retune_jax.models.sharding import BATCH, CACHE, fitting
from retune_jax.protocol import ANSWER, STATUSES, Context

REPORT = ("status", "need", "tokens", "calls", "depth", "logged", *Work._fields)
LOGGED = REPORT.index("logged")
FULL = STATUSES.index("context_full")
PATIENCE = 128  # passes with longer windows than need be, before shorter ones are compiled: about what compiling takes


@partial(jax.jit, static_argnames=("graphdef", "words", "config", "mesh"), donate_argnames=("state",))
def advance(graphdef, words: Words, config: DecoderConfig, params, tables: Tables, state: State, mesh: Mesh | None = None):
    """`steps_per_advance` times a pass of the model and a transition. `mesh` is what the slots are shared over, if any.

    Returns the state, and int32 [N, B] for the host to look at: what `REPORT` names, of each slot.
    """

    axes = window_axes(nnx.merge(graphdef, params))

    def turn(_, state):
        state = step(nnx.merge(graphdef, params), words, tables, config, state)
        return transition(words, tables, config, axes, state, mesh)

    state = jax.lax.fori_loop(0, config.steps_per_advance, turn, state)
    slots = state.slots
    # A segment that will not end is in the log, too.
    logged_B = slots.logged_B + slots.known_B - slots.segment_B
    report = slots.status_B, slots.need_B, slots.used_B, slots.calls_B, slots.deepest_B, logged_B, *slots.work_BN.T
    return state, jnp.stack(report)


@partial(jax.jit, static_argnames=("config", "live", "axes"))
def resize(config: DecoderConfig, live: int, axes: tuple[int, ...], tokens_BX, cache):
    """Active windows of another length: their tokens, and their keys and values, as far as there is room."""

    def fit(leaf, axis):
        spare = live + config.tokens_per_step - leaf.shape[axis]
        if spare <= 0:
            return jax.lax.slice_in_dim(leaf, 0, leaf.shape[axis] + spare, axis=axis)
        return jnp.pad(leaf, [(0, spare if axis == other else 0) for other in range(leaf.ndim)])

    return fit(tokens_BX, 1), jax.tree.map(fit, cache, jax.tree.unflatten(jax.tree.structure(cache), axes))


@partial(jax.jit, donate_argnames=("state",))
def refill(state: State, fresh_B, tokens_BW, known_B, problem_B) -> State:
    """Starts new problems in the slots marked `fresh`: their prompts, the prompts' lengths and their numbers."""
    slots, length = state.slots, state.slots.tokens_BX.shape[1]
    tokens_BX = jax.lax.dynamic_update_slice(slots.tokens_BX, tokens_BW[:, :length], (0, 0))

    def start(value, old):
        return jnp.where(fresh_B.reshape(-1, *(1,) * (old.ndim - 1)), value, old)

    top_F = jnp.arange(slots.base_BF.shape[1]) == 0
    prompt_BF2 = jnp.where(top_F[:, None], fingerprint(tokens_BX, known_B)[:, None], 0).astype(jnp.uint32)
    started = {
        "tokens_BX": tokens_BX,
        "known_B": known_B,
        "segment_B": known_B,
        "need_B": known_B,
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
    table = state.memo
    if table is not None:
        table = dataclasses.replace(table, reach_BF2=start(0, table.reach_BF2))
    return dataclasses.replace(state, slots=dataclasses.replace(slots, **changed), memo=table)


@partial(jax.jit, donate_argnames=("state",))
def forget(state: State) -> State:
    """Empties the memo: what it says of the logs holds for one run only."""
    return dataclasses.replace(state, memo=dataclasses.replace(state.memo, key_M2=jnp.zeros_like(state.memo.key_M2)))


@jax.jit
def _row(values_BT, slot):
    return values_BT[slot]


class RecursiveDecoder:
    """Solves problems by recursion with one model. See the package for how."""

    def __init__(self, model: nnx.Module, tokenizer, config: DecoderConfig):
        """Takes the model's present weights, the layers of a `Llama` apart: a copy, unless they are already (`llama.apart`).

        Args:
            model: any module with `init_cache(batch, window)`, which makes leaves [batch, kv_heads, …] with an axis as long
                as the window, and `step(tokens_BC, start_B, cache)`, which returns float32 logits [B, C, V] and the cache:
                token c of slot b stands at window index start_B[b] + c and attends to the indices up to its own.
            tokenizer: a `retune_jax.tokenizer.Tokenizer`, or anything with its `encode`, `bos`, `eos` and `pieces`.
            config: sizes and limits.

        Raises:
            UserError: the decoder does not fit into memory.
        """
        self._encode = tokenizer.encode
        self._pieces = list(tokenizer.pieces)
        self._words = Words.of(tokenizer, config.opening)
        self._tables = Tables.of(self._pieces)
        graphdef, params = nnx.split(model)
        self._axes = window_axes(model)
        self._rest: tuple[State, int] | None = None
        self._compiled: set[int] = set()  # lengths of active windows, and for others the passes that they would have served
        self._missed: Counter[int] = Counter()
        kept = dataclasses.replace(config, stack="keep")
        shapes = jax.eval_shape(partial(_create, graphdef, kept, config.window), params)
        again = [nnx.state(llama.layers) for llama in stacked(model)]
        self.need = memory.need(shapes, params, again, config, len(self._pieces))
        sharding = jax.tree.leaves(params)[0].sharding
        self._mesh = sharding.mesh if isinstance(sharding, NamedSharding) and sharding.mesh.size > 1 else None
        device, devices = min(sharding.device_set, key=lambda device: device.id), len(sharding.device_set)
        self.config = dataclasses.replace(config, stack=memory.choose(self.need, config, device, devices))
        self._graphdef, self._params = nnx.split(apart(model, donate=False))

    def solve(self, prompts: Sequence[str], progress: Callable[[int, int], None] | None = None) -> list[Result]:
        """Solves the problems and returns a result for each, in their order.

        Args:
            prompts: the top-level problems, as a task's `question` writes them.
            progress: called with (problems ended, problems) after each that ends.

        A prompt that does not fit into the window ends as `context_full` at once.
        """
        results: list[Result | None] = [None] * len(prompts)
        for ended, (number, solved) in enumerate(self.stream(prompts), start=1):
            results[number] = solved
            if progress is not None:
                progress(ended, len(prompts))
        return results

    def sample(self, prompts: Sequence[str], count: int) -> list[list[Result]]:
        """`count` results for each problem, at the config's temperature; `result.vote` chooses among them.

        A sample depends on the model, the seed, its prompt and how many samples of that prompt came before it.
        """
        results = self.solve([prompt for prompt in prompts for _ in range(count)])
        return [results[first : first + count] for first in range(0, len(results), count)]

    def stream(
        self,
        prompts: Sequence[str],
        watch: Callable[[int, Context], None] | None = None,
        numbers: Sequence[int] | None = None,
    ) -> Iterator[tuple[int, Result]]:
        """Solves the problems and yields (number, result) as they end.

        Args:
            prompts: as for `solve`.
            watch: called after every `advance` with the first problem that is being worked on, its number and its tree so
                far; contexts that are open have the status "running".
            numbers: the problems' own, where they are a part of a larger set, on which draws then depend. From 0 by default.
        """
        waiting = self._waiting(prompts, numbers)
        working: list[tuple[int, str] | None] = [None] * self.config.slots
        needs = np.zeros(self.config.slots, int)
        state, live = self._idle()
        ended: list[tuple[int, str, np.ndarray]] = []
        logs: dict[int, jax.Array] = {}  # of problems that have ended; others may point into them

        def log_of(problem: int) -> np.ndarray:
            if problem in logs:
                return np.asarray(logs[problem])
            slot = next(slot for slot, work in enumerate(working) if work is not None and work[0] == problem)
            return np.asarray(_row(state.slots.log_BT, slot))

        while True:
            arrivals = {}
            for slot in (slot for slot, work in enumerate(working) if work is None):
                for number, key, prompt, ids in waiting:
                    if len(ids) <= self.config.window:
                        working[slot], arrivals[slot], needs[slot] = (number, prompt), (key, ids), len(ids)
                        break
                    ended.append((number, prompt, np.array([FULL, *(0 for _ in REPORT[1:])])))
            if any(working):
                state, live = self._fit(state, live, max(need for need, work in zip(needs, working) if work is not None))
            if arrivals:
                state = refill(state, *self._arrays(arrivals))
            if any(working):
                state, report = advance(self._graphdef, self._words, self.config, self._params, self._tables, state, self._mesh)
            for number, prompt, facts in ended:  # the device works on in the meantime
                log_T = log_of(number)[: facts[LOGGED]] if number in logs else np.zeros(0, np.int32)
                yield number, self._result(prompt, facts, result.expand(log_T, log_of, self.config.trace))
                if state.memo is None:
                    logs.pop(number, None)
            if not any(working):
                self._rest = state, live
                return
            ended = []
            needs = np.array(report)[REPORT.index("need")]
            for slot, facts in enumerate(np.asarray(report).T):
                if working[slot] is not None and facts[0] >= 0:
                    number, prompt = working[slot]
                    ended.append((number, prompt, facts))
                    logs[number] = _row(state.slots.log_BT, slot)
                    working[slot] = None
            if watch is not None and any(working):
                (number, prompt), slot = min((work, slot) for slot, work in enumerate(working) if work is not None)
                log_T = result.expand(log_of(number)[: np.asarray(report)[LOGGED, slot]], log_of, self.config.trace)
                log_T = result.spoken(log_T)[1] if self.config.trace else log_T
                watch(number, result.rebuild(prompt, "running", log_T, self._pieces, self.config.carry))

    def _idle(self) -> tuple[State, int]:
        """A state in which no slot works, and the length of its active windows; that of an earlier run where there is one."""
        rest, self._rest = self._rest, None  # who runs meanwhile makes a state of his own
        if rest is not None:
            state, live = rest
            return (state if state.memo is None else forget(state)), live
        live = windows(self.config)[0]
        make = partial(_create, self._graphdef, self.config, live)
        return self._offloaded(jax.jit(make, out_shardings=self._shardings(make))(self._params), live), live

    def _shardings(self, make: Callable) -> State | None:
        """How the state that `make` makes lies on a mesh: slots over `data` and `fsdp`, heads over `tensor`."""
        if self._mesh is None:
            return None
        shapes = jax.eval_shape(make, self._params)

        def place(spec, tree):
            return jax.tree.map(lambda leaf: NamedSharding(self._mesh, fitting(spec, leaf.shape, self._mesh)), tree)

        return State(
            slots=place(BATCH, shapes.slots),
            cache=place(CACHE, shapes.cache),
            stack=place(CACHE, shapes.stack),
            memory=place(PartitionSpec(), shapes.memory),
            memo=place(PartitionSpec(), shapes.memo),
        )

    def _offloaded(self, state: State, live: int) -> State:
        """The state, with the stack of the policy `offload` in the host's memory, where it never was elsewhere."""
        if self.config.stack != "offload":
            return state
        kept = partial(_create, self._graphdef, dataclasses.replace(self.config, stack="keep"), live)

        def on_host(leaf, like):
            return jax.device_put(np.zeros(leaf.shape, leaf.dtype), like.sharding.with_memory_kind("pinned_host"))

        stack = jax.tree.map(on_host, jax.eval_shape(kept, self._params).stack, state.stack)
        return dataclasses.replace(state, stack=stack)

    def _fit(self, state: State, live: int, need: int) -> tuple[State, int]:
        """The state with active windows for contexts of `need` tokens, and what one advance may add to them."""
        wanted = min(need + self.config.tokens_per_step, self.config.window)
        fitting = next(size for size in windows(self.config) if size >= wanted)
        if fitting not in self._compiled and any(size >= wanted for size in self._compiled):
            self._missed[fitting] += self.config.steps_per_advance
            if self._missed[fitting] < PATIENCE:
                fitting = min(size for size in self._compiled if size >= wanted)
        self._compiled.add(fitting)
        if fitting != live:
            tokens_BX, cache = resize(self.config, fitting, self._axes, state.slots.tokens_BX, state.cache)
            state = dataclasses.replace(state, slots=dataclasses.replace(state.slots, tokens_BX=tokens_BX), cache=cache)
        return state, fitting

    def _waiting(self, prompts: Sequence[str], numbers: Sequence[int] | None) -> Iterator[tuple[int, int, str, list[int]]]:
        """The queue: number, what the device takes for it, prompt, and the ids of the window that it opens.

        Where tokens are drawn, the device's number is a hash of the prompt and of its number, or else of how often it came
        before, so that the order of the problems does not change a sample.
        """
        seen: Counter[str] = Counter()
        for at, prompt in enumerate(prompts):
            number = key = numbers[at] if numbers else at
            if self.config.temperature > 0:
                key = zlib.crc32(f"{number if numbers else seen[prompt]} {prompt}".encode()) >> 1
                seen[prompt] += 1
            yield number, key, prompt, [self._words.bos, *self._encode(f" {prompt}"), *self._words.opening]

    def _arrays(self, arrivals: dict[int, tuple[int, list[int]]]) -> tuple[np.ndarray, ...]:
        """Arguments of `refill` for new (number or key, ids) by slot."""
        slots = self.config.slots
        tokens_BW = np.zeros((slots, self.config.window), np.int32)
        fresh_B, known_B, problem_B = np.zeros(slots, bool), np.zeros(slots, np.int32), np.zeros(slots, np.int32)
        for slot, (number, ids) in arrivals.items():
            tokens_BW[slot, : len(ids)] = ids
            fresh_B[slot], known_B[slot], problem_B[slot] = True, len(ids), number
        return fresh_B, tokens_BW, known_B, problem_B

    def _result(self, prompt: str, facts: np.ndarray, log_T: np.ndarray) -> Result:
        """What the host makes of a slot that has ended."""
        code, _, tokens, calls, depth, _, *work = (int(fact) for fact in facts)
        status = STATUSES[code]
        spoken, log_T = result.spoken(log_T) if self.config.trace else ((), log_T)
        context = result.rebuild(prompt, status, log_T, self._pieces, self.config.carry)
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
            work=Work(*work),
            spoken=spoken,
        )


def _create(graphdef, config: DecoderConfig, live: int, params) -> State:
    return create(nnx.merge(graphdef, params), config, live, Memory.empty())
