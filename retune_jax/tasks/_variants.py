"""Variants of a task, for studies: asked in other words, or trained on another set.

A `Wording` stands beside its task and says, for each template that the task's prompts follow, what to write instead:

    >>> from retune_jax import tasks
    >>> parity = tasks.get("parity")
    >>> odd = Wording("odd", {"What is the parity of {}?": "Is the sum of {} odd?"})
    >>> odd.write("What is the parity of [0, 1]?")
    'Is the sum of [0, 1] odd?'
    >>> odd.read("Is the sum of [0, 1] odd?")
    'What is the parity of [0, 1]?'

The task in that wording is a task like any other. It is solved by the same solver, whose calls are asked in the same words:

    >>> parity.wordings[0].name
    'odd'
    >>> print(tasks.trace(reworded(parity, "odd"), (0, 1)).text)
     Is the sum of [0, 1] odd?
    Solution: Call: Is the sum of [1] odd?
    Return: 1
    Answer: 1
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from retune_jax.errors import UserError
from retune_jax.tasks.task import Task, solved

PAPER, ALL = "paper", "all"


@dataclass(frozen=True, eq=False)
class Wording:
    """Another way of asking.

    Attributes:
        name: what it is called; PAPER is the task's own.
        forms: for each template of the task's prompts, the one to use instead. `{}` stands for what differs from problem to
            problem, in the same order in both.
    """

    name: str
    forms: dict[str, str]

    def write(self, prompt: str) -> str:
        """The task's own prompt in these words; as it is where no template fits."""
        return _swapped(prompt, self.forms.items())

    def read(self, text: str) -> str:
        """These words in the task's own; as they are where no template fits."""
        return _swapped(text.strip(), ((new, old) for old, new in self.forms.items()))


def _swapped(text: str, pairs) -> str:
    for before, after in pairs:
        found = re.fullmatch("(.+?)".join(map(re.escape, before.split("{}"))), text, re.DOTALL)
        if found:
            return after.format(*found.groups())
    return text


def wording_names(task: Task) -> list[str]:
    """The names of a task's wordings, its own first."""
    return [PAPER, *(wording.name for wording in task.wordings)]


def reworded(task: Task, name: str) -> Task:
    """The task asked in other words, by the name of a wording. Raises UserError, which lists the known ones."""
    if name == PAPER:
        return task
    if name not in wording_names(task):
        raise UserError(f"{task.name} has no wording {name!r}; there are {', '.join(wording_names(task))}")
    wording = next(wording for wording in task.wordings if wording.name == name)

    class Reworded(type(task)):  # type: ignore[misc]
        def parse(self, text):
            return super().parse(wording.read(text))

        def prompt(self, problem):
            return wording.write(super().prompt(problem))

    return Reworded()


def with_training_set(task: Task, *, per_length: int, resample: bool) -> Task:
    """The task with another training set, for studies of what the set does.

    Args:
        task: left as it is.
        per_length: so many distinct problems of each trained length, or all where fewer exist, in place of the task's own
            sampling and at any scale, with all contexts of their solutions: one that many of them call comes as often, so that
            short subproblems, of which there are few, are not lost among the long ones. 0 keeps the task's own.
        resample: False keeps every distinct context once, in place of the task's own rule of drops and repeats.
    """
    if not per_length and resample:
        return task

    class Other(type(task)):  # type: ignore[misc]
        def copies(self, problem, method, scale):
            return 1.0, 1.0

        if per_length:

            def traced(self, rng, scale):
                for top in self.training_problems("retune", rng, scale):
                    for _, context in solved(self, top, None):
                        yield context, 1

            def training_problems(self, method, rng, scale):
                for length in range(self.trained_lengths[0], self.trained_lengths[1] + 1):
                    found = {}
                    for _ in range(50 * per_length):  # where there are fewer problems, nearly all are met by then
                        found[self.sample(rng, length)] = None
                        if len(found) == per_length:
                            break
                    yield from found

    return Other()
