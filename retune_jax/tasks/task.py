r"""What a task is, and how its solver becomes training text.

A task is an ordinary recursive program that *yields its calls*. Each call's subproblem is solved in a fresh context,
and its value comes back, as text, where the solver stopped. From that one generator come the training contexts of every
method, and from the rest of the class the problems, the reference answers and the grading. Here is a whole task; put
in a file of this folder (`tasks/largest.py`), it is trained, solved and evaluated without a change anywhere else:

    >>> from retune_jax.tasks.task import Answer, Call, Task, listed, trace
    >>> class Largest(Task):
    ...     '''The largest item of a list.'''
    ...
    ...     name = "largest"
    ...     trained_lengths = (1, 5)
    ...     evaluated_lengths = (1, 20)
    ...
    ...     def parse(self, text):
    ...         return listed(text.strip().removeprefix("Largest of "))
    ...
    ...     def prompt(self, items):
    ...         return f"Largest of {list(items)}"
    ...
    ...     def solve(self, items):
    ...         if len(items) == 1:
    ...             return Answer(items[0])
    ...         rest = yield Call(self.prompt(items[1:]))
    ...         return Answer(max(items[0], int(rest)), words=f"Compare {items[0]} with {rest}.")
    ...
    ...     def length(self, items):
    ...         return len(items)
    ...
    ...     def sample(self, rng, length):
    ...         return tuple(rng.integers(0, 10, length).tolist())
    ...
    ...     def answer(self, items):
    ...         return str(max(items))

`trace` runs the solver and gives the tree of contexts, as a model that makes no mistake would write it:

    >>> task = Largest()
    >>> problem = task.parse("[3, 8, 5]")
    >>> print(trace(task, problem).text)
     Largest of [3, 8, 5]
    Solution: Call: Largest of [8, 5]
    Return: 8
    Answer: Compare 3 with 8.
    Answer: 8

A text that a model wrote is graded against `answer`, which does not go through the recursion, so that each checks the
other. The other methods, which do not call, are derived as well:

    >>> task.grade(problem, "retune", " Compare 3 with 8.\nAnswer: 8")
    True
    >>> task.written(problem, "baseline").outputs()
    [' 8']
    >>> task.written(problem, "scratchpad").outputs()
    [' 5\n8\n8']

The training set is a stream of contexts with how often each is repeated. Unless the task says otherwise, its problems
are samples of every trained length, and each distinct context of their traces comes once. A task with rules of its own
overrides `training_problems` (which problems are traced) and `copies` (which contexts are dropped or repeated).
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Generator, Hashable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from retune_jax.errors import UserError
from retune_jax.protocol import ANSWER, SOLUTION, AnswerRead, Context, Segment, paste, read

if TYPE_CHECKING:
    import numpy as np

    from retune_jax.tasks._variants import Wording

    Problem = Hashable

OPENINGS = {"retune": SOLUTION, "scratchpad": SOLUTION, "baseline": "\nAnswer:"}
METHODS = tuple(OPENINGS)
# Re-Tuning without one of its parts, each with the method whose problems it is trained on: the whole recursion written into one
# growing context; and the subproblem solved in its own, but nothing of its value told to the caller.
ABLATIONS = {"no_isolation": "scratchpad", "no_carry": "retune"}
LIST = re.compile(r"\[\s*(-?[0-9]+(?:\s*,\s*-?[0-9]+)*)\s*\]")
MOST_DIGITS = 18  # of an item of a list that a person writes; what a solver makes of it may be longer
MOST_SUSPENDED, MOST_CALLS = 5_000, 1_000_000  # of one problem; a solver that goes beyond does not shrink its problem


class ProblemError(UserError):
    """A text that is no problem of the task."""


class Call(NamedTuple):
    """What a solver yields: the prompt of the subproblem, and words to say before it."""

    prompt: str
    words: str = ""

    @property
    def text(self) -> str:
        """The segment that makes this call."""
        return f" {self.words} Call: {self.prompt}\n" if self.words else f" Call: {self.prompt}\n"


class Answer(NamedTuple):
    """What a solver returns: the context's value, and words to say before it."""

    value: object
    words: str = ""

    @property
    def text(self) -> str:
        """The segment that gives this answer."""
        return f" {self.words}\nAnswer: {self.value}" if self.words else f" {self.value}"


class Task:
    """A family of problems with a recursive solution: see the module for a worked example.

    A problem is an immutable, hashable value of the task's own choice. Every context of a solution has one, the top
    one and the subproblems alike: `prompt` writes it down and `parse` reads it back.
    """

    name: str
    trained_lengths: tuple[int, int]
    evaluated_lengths: tuple[int, int]
    problems_per_length = 1000
    uses: tuple[Task, ...] = ()  # other tasks, whose problems the contexts of this one may call
    wordings: tuple[Wording, ...] = ()  # other ways of asking

    # What every task says.

    def parse(self, text: str) -> Problem:
        """Read a problem from text. Raises ProblemError with one clear line."""
        raise NotImplementedError

    def prompt(self, problem: Problem) -> str:
        """Write the problem down the way of Re-Tuning."""
        raise NotImplementedError

    def solve(self, problem: Problem) -> Generator[Call, str, Answer]:
        """Solve the problem: yield each call, receive its value as text, return the answer."""
        raise NotImplementedError

    def length(self, problem: Problem) -> int:
        """How long the problem is: digits or items."""
        raise NotImplementedError

    def sample(self, rng: np.random.Generator, length: int) -> Problem:
        """Draw a top-level problem uniformly among those of exactly this length."""
        raise NotImplementedError

    def answer(self, problem: Problem) -> str:
        """Return the final answer, worked out directly rather than through `solve`."""
        raise NotImplementedError

    # What follows from it, for a task to override where its texts differ.

    def reading(self, prompt: str) -> tuple[Task, Problem]:
        """Read the prompt of any context: whose problem it is, this task's or one's that it uses, and which.

        Raises ProblemError, with this task's own words, where none can read it.
        """
        try:
            return self, self.parse(prompt)
        except ProblemError:
            for other in self.uses:
                with contextlib.suppress(ProblemError):
                    return other.reading(prompt)
            raise

    def opening(self, method: str) -> str:
        """Text between the question and the first segment."""
        return OPENINGS[ABLATIONS.get(checked(method), method)]

    def question(self, problem: Problem, method: str) -> str:
        """Write the problem down the way of the method; `parse` reads all of them."""
        return self.prompt(problem)

    def scratchpad(self, problem: Problem) -> str:
        """Write the solution out in one go: every value of the recursion in the order in which they return."""
        values = []
        waiting = [trace(self, problem)]
        while waiting:
            context = waiting.pop()
            values.append(context.value)
            waiting.extend(segment.callee for segment in context.segments if segment.callee)
        # Callers before callees, last callee first, is the order of the returns read backwards.
        return "\n".join(reversed(values))

    def written(self, problem: Problem, method: str) -> Context:
        """Write out the true solution: a tree of contexts for Re-Tuning, a single segment for the methods without calls."""
        if calls(method):
            return trace(self, problem, carries=method != "no_carry")
        if method == "no_isolation":
            solution = unrolled(trace(self, problem))
        else:
            solution = f" {self.scratchpad(problem) if method == 'scratchpad' else self.answer(problem)}"
        return Context(self.question(problem, method), (Segment(solution),))

    def final(self, method: str, segment_text: str) -> str:
        """Return the answer that a model's last segment gives, in the form of `answer`; "" where it gives none."""
        if calls(method):
            reading = read(segment_text)
            return reading.value if isinstance(reading, AnswerRead) else ""
        text = segment_text.strip()
        if method == "no_isolation":
            return text.rpartition(ANSWER)[2].strip()
        return text.rpartition("\n")[2].strip() if method == "scratchpad" else text

    def grade(self, problem: Problem, method: str, segment_text: str) -> bool:
        """Whether a model's last segment gives the right answer."""
        return self.final(method, segment_text) == self.answer(problem)

    def recursion_limit(self, length: int) -> int:
        """How deep a model's calls may nest when it solves a problem of this length."""
        return 2 * length

    def training_problems(self, method: str, rng: np.random.Generator, scale: float) -> Iterator[Problem]:
        """Yield the top-level problems to train on: by default distinct samples of every trained length."""
        seen = set()
        shortest, longest = self.trained_lengths
        for length in range(shortest, longest + 1):
            for _ in range(max(1, round(self.problems_per_length * scale))):
                problem = self.sample(rng, length)
                if problem not in seen:
                    seen.add(problem)
                    yield problem

    def copies(self, problem: Problem, method: str, scale: float) -> tuple[float, float]:
        """Return (share, copies) for a context: the chance that it is kept, and how often a kept one is repeated."""
        return 1.0, 1.0

    def training_set(self, method: str, rng: np.random.Generator, scale: float) -> Iterator[tuple[Context, int]]:
        """Return the contexts to train on, each with how often it is repeated, at least once.

        For Re-Tuning these are the distinct contexts of all traces. A callee may be given by its value only, so just
        the contexts themselves are to be trained on, not those below them.
        `scale` is the size relative to the full set, above 0 and at most 1. Raises UserError.
        """
        if not 0 < scale <= 1:
            raise UserError(f"the scale of a training set is above 0 and at most 1, not {scale}")
        if not calls(method):
            return self.untraced(method, rng, scale)
        contexts = self.traced(rng, scale)
        return contexts if method == "retune" else ((replace(context, carries=False), copies) for context, copies in contexts)

    def traced(self, rng: np.random.Generator, scale: float) -> Iterator[tuple[Context, int]]:
        """Yield the training set of Re-Tuning."""
        known: dict[str, str] = {}
        for top in self.training_problems("retune", rng, scale):
            for problem, context in solved(self, top, known):
                copies = drawn(rng, *self.copies(problem, "retune", scale))
                if copies:
                    yield context, copies

    def untraced(self, method: str, rng: np.random.Generator, scale: float) -> Iterator[tuple[Context, int]]:
        """Yield the training set of a method without calls."""
        sampling = ABLATIONS.get(method, method)
        for problem in self.training_problems(sampling, rng, scale):
            copies = drawn(rng, *self.copies(problem, sampling, scale))
            if copies:
                yield self.written(problem, method), copies


def trace(task: Task, problem: Problem, *, carries: bool = True) -> Context:
    """Run the solver on the problem and return the tree of contexts that it writes."""
    *_, (_, context) = solved(task, problem, None, carries)
    return context


def unrolled(tree: Context) -> str:
    """Write all that a tree's contexts generate, and what is pasted between, as one text: the recursion without isolation.

    A callee's text stands where its caller waits for it, behind an opening of its own.
    """
    texts = []
    waiting: list[Context | str] = [tree]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            texts.append(item)
            continue
        for segment in reversed(item.segments):
            if segment.callee:
                waiting += [f"\n{paste(segment.callee.value)}", segment.callee, SOLUTION.lstrip("\n")]
            waiting.append(segment.text)
    return "".join(texts)


def solved(
    task: Task, problem: Problem, known: dict[str, str] | None, carries: bool = True
) -> Iterator[tuple[Problem, Context]]:
    """Run the solver and yield every subproblem with its context as soon as it returns, the problem's own last.

    A call may be of a task that this one uses: then that task's solver takes over, for as long as the callee lasts.

    With `known` (values by prompt, added to here) nothing is solved twice, not even from one run to the next: a known
    callee is a leaf that holds its value, and is not yielded.

    Raises:
        UserError: the solver calls itself with a prompt that is waiting for an answer already, or does not come to an end.
    """
    if known is not None and task.prompt(problem) in known:
        return
    # Suspended solvers are kept on a list, as recursion in Python would end at a few hundred calls.
    suspended, waiting, made = [], set(), 0
    prompt, solver, segments, value = task.prompt(problem), task.solve(problem), [], None
    while True:
        try:
            call = solver.send(value)
        except StopIteration as returned:
            answer = returned.value
            segments.append(Segment(answer.text))
            context, value = Context(prompt, tuple(segments), carries=carries), str(answer.value)
            if known is not None:
                known[prompt] = value
            yield problem, context
            if not suspended:
                return
            problem, prompt, solver, segments, call = suspended.pop()
            waiting.discard(prompt)
            segments.append(Segment(call.text, context))
            continue
        if known is not None and call.prompt in known:
            value = known[call.prompt]
            segments.append(Segment(call.text, Context(call.prompt, (Segment(f" {value}"),))))
        else:
            made += 1
            waiting.add(prompt)
            if call.prompt in waiting:
                raise UserError(f"{task.name}: the solver calls itself in a circle, at {shown(call.prompt)}")
            if len(suspended) == MOST_SUSPENDED or made == MOST_CALLS:
                many = f"{len(suspended)} callers wait" if made < MOST_CALLS else f"it has made {made} calls"
                raise UserError(f"{task.name}: too long, or without end: {many}, now for {shown(call.prompt)}")
            suspended.append((problem, prompt, solver, segments, call))
            owner, problem = task.reading(call.prompt)
            prompt, solver, segments, value = call.prompt, owner.solve(problem), [], None


def checked(method: str) -> str:
    """Return the method. Raises UserError, which lists the known ones, where there is no such method."""
    if method not in OPENINGS and method not in ABLATIONS:
        raise UserError(f"no method is called {method!r}; there are {', '.join((*METHODS, *ABLATIONS))}")
    return method


def calls(method: str) -> bool:
    """Whether the method's contexts call others, rather than say all in one. Raises UserError where there is no such method."""
    return ABLATIONS.get(checked(method), method) == "retune"


def listed(text: str, digits: int = MOST_DIGITS) -> tuple[int, ...]:
    """Read a list of whole numbers, as Python writes it, each of so many digits at most. Raises ProblemError."""
    found = LIST.fullmatch(text.strip())
    if not found:
        what = "the list is empty" if "".join(text.split()) in ("", "[]") else f"{shown(text)} is not a list"
        raise ProblemError(f"{what}; a list of whole numbers is written like [1, 0, 1]")
    items = found[1].split(",")
    # The plain lengths first: graders read long lists by the ten thousand.
    if max(map(len, items)) > digits and (longest := max(len(item.strip().lstrip("-")) for item in items)) > digits:
        raise ProblemError(f"{shown(text)} is not a list to work with: an item has {longest} digits, and {digits} are the most")
    return tuple(map(int, items))


def shown(text: str) -> str:
    """Quote a text for a message: on one line and not too long."""
    return repr(text if len(text) <= 60 else f"{text[:57]}...")


def drawn(rng: np.random.Generator, share: float, copies: float) -> int:
    """Draw how often a context is repeated: 0 where it is dropped, `copies` on average where it is kept."""
    if share < 1 and rng.random() >= share:
        return 0
    whole = int(copies)
    return whole + (copies > whole and rng.random() < copies - whole)


def thinning(scale: float, sources: int, chance: float) -> float:
    """By how much a context is to be repeated less in a set made from fewer problems, to keep its weight in the whole.

    In the full set each of `sources` problems is drawn with probability `chance`, and any of them leads to the context.
    Rare contexts become rarer by themselves (about 1); a context that is nearly always met does not (about `scale`).
    """
    full, part = (1 - (1 - chance * fraction) ** sources for fraction in (1.0, scale))
    return scale * full / part if part > 1e-6 else 1.0
