"""What every task has to keep, tried on problems of its own: `python -m retune_jax.tasks --check my_module:MyTask`.

A promise that is broken shows, in training, as data that a model cannot learn from, and in evaluation as right answers counted
wrong. Each is one function here, which raises `Broken` with the text that shows it, or says in a few words what was tried.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from retune_jax.protocol import ANSWER, CALL, Context
from retune_jax.tasks.task import METHODS, ProblemError, Task, shown

PER_LENGTH = 20  # problems of each length that is tried
ROOM = 512  # tokens that a recipe gives a trained context
LENGTHS = 12  # lengths tried, spread from the shortest trained to the longest evaluated
RUBBISH = ("", " ", "?", "[", "[1, 2", "Call:", "Answer:", "\n", "-1", "9" * 30, "Return: 0\nAnswer: x", "\x00", "½")


class Broken(Exception):
    """A promise that the task does not keep; the message shows where."""


@dataclass
class Trial:
    """The task, the problems that it is tried on, and their true solutions."""

    task: Task
    lengths: list[int] = field(default_factory=list)
    problems: list = field(default_factory=list)  # (length, problem)

    def traces(self) -> Iterator[tuple[int, object, Context]]:
        """Length, problem and tree of contexts of each problem."""
        for length, problem in self.problems:
            yield length, problem, self.task.written(problem, "retune")


def samples(trial: Trial) -> str:
    """Draws the problems: of the length asked for, the same ones from the same seed, hashable."""
    task = trial.task
    for what in ("trained_lengths", "evaluated_lengths"):
        low, high = getattr(task, what)
        if not 1 <= low <= high:
            raise Broken(f"{what} is ({low}, {high}), which is no range of lengths")
    shortest, longest = task.trained_lengths[0], max(task.evaluated_lengths[1], task.trained_lengths[1])
    trial.lengths = sorted({round(n) for n in np.linspace(shortest, longest, LENGTHS)} | {task.trained_lengths[1]})
    for length in trial.lengths:
        first, again = ([task.sample(np.random.default_rng([7, length, n]), length) for n in range(PER_LENGTH)] for _ in "ab")
        if first != again:
            raise Broken(f"sample(rng, {length}) gives another problem from the same rng: it must draw from nothing else")
        for problem in first:
            hash(problem)
            if task.length(problem) != length:
                raise Broken(f"sample(rng, {length}) gave {_text(task, problem)}, whose length is {task.length(problem)}")
        trial.problems += [(length, problem) for problem in first]
    return f"{len(trial.problems)} problems of lengths {trial.lengths[0]} to {trial.lengths[-1]}"


def wording(trial: Trial) -> str:
    """Every question parses back to its problem, and holds none of the protocol's words."""
    task = trial.task
    for _, problem in trial.problems:
        for method in METHODS:
            question = task.question(problem, method)
            if task.parse(question) != problem:
                raise Broken(f"{shown(question)} is the question for {problem!r}, but parses as {task.parse(question)!r}")
        prompt = task.prompt(problem)
        if prompt != prompt.strip() or "\n" in prompt or CALL in prompt or ANSWER in prompt or not prompt:
            raise Broken(f"a prompt is one line without outer spaces, {CALL!r} and {ANSWER!r}; this one is {shown(prompt)}")
    return f"as {shown(task.prompt(trial.problems[-1][1]))}"


def traces(trial: Trial) -> str:
    """Every recursion ends, within the task's own limit, and each call is a problem again."""
    task, deepest, most = trial.task, 0, 0
    for length, problem, tree in trial.traces():
        depth = _depth(tree)
        if depth > task.recursion_limit(length):
            raise Broken(
                f"{_text(task, problem)} nests {depth} calls; recursion_limit({length}) is {task.recursion_limit(length)}"
            )
        number = 0
        for context in tree.walk():
            number += 1
            owner, subproblem = task.reading(context.prompt)
            if owner.prompt(subproblem) != context.prompt:
                raise Broken(f"the call {shown(context.prompt)} parses back as {shown(owner.prompt(subproblem))}")
        deepest, most = max(deepest, depth), max(most, number)
    return f"at most {most} contexts, {deepest} calls deep"


def answers(trial: Trial) -> str:
    """The recursion and `answer` agree, in every context, and the grader accepts the reference and nothing else."""
    task = trial.task
    for _, problem, tree in trial.traces():
        for context in tree.walk():
            owner, subproblem = task.reading(context.prompt)
            found = owner.final("retune", context.segments[-1].text)
            if found != owner.answer(subproblem):
                raise Broken(
                    f"{shown(context.prompt)}: solve() ends with {found!r}, answer() says {owner.answer(subproblem)!r}"
                )
        for method in METHODS:
            text = task.written(problem, method).segments[-1].text
            if not task.grade(problem, method, text):
                raise Broken(f"{_text(task, problem)} by {method}: the grader refuses the true solution {shown(text)}")
            if task.grade(problem, method, text + "0"):
                raise Broken(f"{_text(task, problem)} by {method}: the grader accepts {shown(text + '0')}")
    return "solve() and answer() agree; the grader knows right from wrong"


def rubbish(trial: Trial) -> str:
    """Whatever a model writes is graded and read without any other exception than a ProblemError."""
    task = trial.task
    for text in RUBBISH:
        for method in METHODS:
            try:
                task.grade(trial.problems[0][1], method, text)
            except Exception as error:
                raise Broken(f"grade() of {text!r} by {method} raises {type(error).__name__}: {error}") from error
        try:
            task.parse(text)
        except Exception as error:
            if not isinstance(error, ProblemError):
                raise Broken(f"parse({text!r}) raises {type(error).__name__}: {error}, not a ProblemError") from error
    return f"{len(RUBBISH)} texts that are none"


def splices(trial: Trial, tokenizer) -> str:
    """Token ids spliced by the decoder are those of the spliced text, so training and decoding see the same."""
    for _, _, tree in trial.traces():
        for context in tree.walk():
            spliced = []
            for before, text in zip(context.inputs(), context.outputs()):
                spliced += tokenizer.encode(before) + tokenizer.encode(text)
            if spliced != tokenizer.encode(context.text):
                raise Broken(f"{shown(context.text)} is cut into other tokens as a whole than segment by segment")
            for segment in context.segments:
                if segment.callee and not _within(
                    tokenizer.encode(f" {segment.callee.prompt}"), tokenizer.encode(segment.text)
                ):
                    raise Broken(f"the prompt in {shown(segment.text)} is cut into other tokens than when it opens a context")
    return "every call, value and context"


def sizes(trial: Trial, tokenizer, room: int) -> str:
    """The contexts to train on fit into the room that a recipe gives them."""
    longest: dict[int, int] = {}
    for length, _, tree in trial.traces():
        tokens = max(1 + len(tokenizer.encode(context.text)) for context in tree.walk())
        longest[length] = max(longest.get(length, 0), tokens)
    limit = trial.task.trained_lengths[1]
    trained = max(tokens for length, tokens in longest.items() if length <= limit)
    if trained > room:
        raise Broken(
            f"a context of length {limit} takes {trained} tokens, and recipes train on {room}: "
            "set config.data.context_length and sequence_length"
        )
    return f"a context takes at most {trained} tokens where trained, {max(longest.values())} where evaluated"


def training(trial: Trial) -> str:
    """There is something to train on."""
    counts = []
    for method in METHODS:
        contexts = itertools.islice(trial.task.training_set(method, np.random.default_rng(0), 0.01), 2000)
        counts.append(f"{sum(copies for _, copies in contexts)} by {method}")
    if any(count.startswith("0 ") for count in counts):
        raise Broken(f"a hundredth of the training set has {', '.join(counts)}")
    return f"of a hundredth, the first contexts are {', '.join(counts)}"


def report(task: Task, tokenizer, room: int) -> Iterator[tuple[bool, str, str]]:
    """Tries everything and yields (kept, promise, what was tried or where it is broken).

    Args:
        task: to be tried.
        tokenizer: that splices are tried with.
        room: tokens that a recipe gives a trained context.
    """
    trial = Trial(task)
    promises: list[tuple[str, Callable[[], str]]] = [
        ("sample() draws problems", lambda: samples(trial)),
        ("wording parses back", lambda: wording(trial)),
        ("recursion ends", lambda: traces(trial)),
        ("answers agree", lambda: answers(trial)),
        ("rubbish is refused", lambda: rubbish(trial)),
        ("splicing is exact", lambda: splices(trial, tokenizer)),
        ("contexts fit", lambda: sizes(trial, tokenizer, room)),
        ("training set", lambda: training(trial)),
    ]
    for promise, kept in promises:
        try:
            yield True, promise, kept()
        except Broken as broken:
            yield False, promise, " ".join(str(broken).split())
        except Exception as error:  # a task raises whatever it likes
            yield False, promise, " ".join(f"{type(error).__name__}: {error}".split())
        if not trial.problems:
            return  # nothing to try the rest on


def _depth(tree: Context) -> int:
    deepest, waiting = 0, [(tree, 0)]
    while waiting:
        context, depth = waiting.pop()
        deepest = max(deepest, depth)
        waiting.extend((segment.callee, depth + 1) for segment in context.segments if segment.callee)
    return deepest


def _within(part: list[int], whole: list[int]) -> bool:
    return any(whole[at : at + len(part)] == part for at in range(len(whole) - len(part) + 1))


def _text(task: Task, problem) -> str:
    return shown(task.prompt(problem))
