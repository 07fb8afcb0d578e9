r"""How large a decoder has to be: window, stack, depth and budgets, from the problems that it will be asked.

Nobody has to know these numbers. A key of `config.decode` that is None is worked out here, from true solutions: what a model
that makes no mistake takes, and some room for one that does. Parity of [0, 1, 1], with the tiny tokenizer:

    ⟨bos⟩ What is the parity of [0, 1, 1]?\nSolution: Call: What is the parity of [1, 1]?\nReturn: 0\nAnswer: 0

opens two callees. Its window takes 40 tokens, all contexts together write 37 (each segment's EOS counted) in 2 calls, and while
the innermost one is open, its two callers wait on the stack with 58. A value that the user sets is left as it is.
"""

import dataclasses
import sys
from collections.abc import Callable, Sequence

from retune_jax import config as recipes
from retune_jax import distributed, tasks
from retune_jax.decoding import DecoderConfig
from retune_jax.errors import UserError
from retune_jax.evaluation import accuracy
from retune_jax.protocol import Context

SIZED = ("window", "max_depth", "stack_tokens", "max_tokens", "max_calls")
MOST_SAMPLES = 200  # problems of the longest length that are looked at; fewer where fewer are asked


@dataclasses.dataclass(frozen=True)
class Need:
    """What the true solution of a problem takes; all but `depth` and `calls` in tokens.

    Attributes:
        window: the longest context.
        stack: all suspended callers together, where they are most.
        depth: most callers suspended at a time.
        tokens: generated in all contexts, each segment's EOS counted.
        calls: made in all contexts.
    """

    window: int = 0
    stack: int = 0
    depth: int = 0
    tokens: int = 0
    calls: int = 0

    def __or__(self, other: "Need") -> "Need":
        """The larger of each."""
        return Need(*map(max, dataclasses.astuple(self), dataclasses.astuple(other)))


def need(tree: Context, opening: str, encode: Callable[[str], list[int]]) -> Need:
    """What a tree of contexts takes, each context opened by its prompt and `opening`."""
    window = stack = depth = tokens = calls = 0
    waiting = [(tree, 0, 0)]  # a context, the tokens and the number of its suspended callers
    while waiting:
        context, below, callers = waiting.pop()
        stack, depth = max(stack, below), max(depth, callers)
        length = 1  # BOS
        for before, segment in zip(context.inputs(opening), context.segments):
            written = len(encode(segment.text))
            length += len(encode(before)) + written
            tokens += written + 1
            if segment.callee:
                calls += 1
                waiting.append((segment.callee, below + length, callers + 1))
        window = max(window, length)
    return Need(window, stack, depth, tokens, calls)


def roomy(need: Need, recursion_limit: int) -> dict[str, int]:
    """The sizes of `SIZED` that hold `need` with room for a model's errors: a longer item, more calls, deeper ones.

    Args:
        need: of the largest true solution.
        recursion_limit: how deep calls may nest, as the task says.
    """
    window = _rounded(need.window + max(8, need.window // 32), 16)
    if not need.calls:  # no recursion: nothing waits
        return {"window": window, "max_depth": 0, "stack_tokens": 0, "max_tokens": window, "max_calls": 0}
    return {
        "window": window,
        "max_depth": max(need.depth + 1, recursion_limit),
        "stack_tokens": _rounded(need.stack + need.stack // 4 + window, 256),
        "max_tokens": _rounded(2 * need.tokens + window, 256),
        "max_calls": 2 * need.calls + 8,
    }


def for_evaluation(config, tokenizer) -> DecoderConfig:
    """The decoder for the evaluation that `config` asks for: one that holds its longest problems.

    Raises:
        UserError: a limit of `config.decode` is wrong, or the window that it sets is too small.
    """
    return for_problems(config, tokenizer, [])


def for_problems(config, tokenizer, problems: Sequence) -> DecoderConfig:
    """As `for_evaluation`, and it holds these problems of the run's task as well."""
    task, longest = tasks.reworded(tasks.get(config.task), config.eval.wording), recipes.read_lengths(config.eval.lengths)[-1]
    drawn = accuracy.problems(task, [longest], min(config.eval.problems_per_length, MOST_SAMPLES))
    length = max([longest, *map(task.length, problems)])
    needed = Need()
    for problem in [*problems, *(problem for _, problem in drawn)]:
        needed |= need(task.written(problem, config.method), config.decode.opening, tokenizer.encode)
    sizes = roomy(needed, task.recursion_limit(length))
    if config.decode.window is not None and config.decode.window < needed.window:
        raise UserError(
            f"config.decode.window: {config.decode.window} tokens do not hold a problem of length {length}, "
            f"which takes {needed.window}: --config.decode.window={sizes['window']} has room"
        )
    values = config.decode.to_dict()
    chosen = {key: sizes[key] if value is None and key in sizes else value for key, value in values.items()}
    return DecoderConfig(**chosen)  # type: ignore[arg-type]


def say(decode, chosen: DecoderConfig, what: str):
    """Tells on stderr, in one line, which sizes were chosen for the user; nothing where all were set."""
    shown = [f"decode.{name}={getattr(chosen, name)}" for name in SIZED if decode[name] is None]
    if shown and distributed.is_first():
        print(f"retune_jax: sized for {what}: {' '.join(shown)}", file=sys.stderr)


def _rounded(size: int, unit: int) -> int:
    return -(-size // unit) * unit
