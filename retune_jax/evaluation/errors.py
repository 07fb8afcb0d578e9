"""Where a solution went wrong: a model's call tree against the true recursion, context by context.

A context is judged by its own question: the task's solver is run beside it and is handed the values that the model's own
calls returned. So a context that computes rightly from a wrong value is right, and only the one where the mistake was made is
wrong. Parity of [1, 1, 0], where the innermost context but one errs:

    What is the parity of [1, 1, 0]?    calls [1, 0], got 0, wrote 1    right: 1 xor 0 is 1
    What is the parity of [1, 0]?       calls [0], got 0, wrote 0       wrong computation: 1 xor 0 is 1
    What is the parity of [0]?          wrote 0                         right
"""

from collections.abc import Iterator
from dataclasses import dataclass

from retune_jax.protocol import Context
from retune_jax.tasks.task import Call, ProblemError, Task

WRONG_CALL, WRONG_COMPUTATION, REPAIRED = "wrong_call", "wrong_computation", "repaired"


@dataclass(frozen=True)
class Mistake:
    """The first segment of a context that the solver would have written otherwise.

    Attributes:
        kind: `WRONG_CALL` where the solver calls here, `WRONG_COMPUTATION` where it answers.
        context: the one it is in.
        written, right: the segment, and what the solver writes in its place.
    """

    kind: str
    context: Context
    written: str
    right: str


def mistake_in(task: Task, context: Context) -> Mistake | None:
    """The first mistake of one context, its callees aside; None where it has none, or nobody could do better."""
    try:
        solver = task.solve(task.parse(context.prompt))
    except ProblemError:
        return None  # asked for no problem of the task: that mistake is the caller's
    value = None
    for segment in context.segments:
        try:
            wanted = solver.send(value)
        except StopIteration as stop:
            wanted = stop.value
        except Exception:  # whatever a solver makes of a value that is rubbish; the mistake lies below
            return None
        if segment.text != wanted.text:
            kind = WRONG_CALL if isinstance(wanted, Call) else WRONG_COMPUTATION
            return Mistake(kind, context, segment.text, wanted.text)
        if segment.callee is None:
            return None
        value = segment.callee.value
    return None


def mistakes(task: Task, tree: Context) -> Iterator[Mistake]:
    """All contexts of a tree with a mistake, in the order in which they opened."""
    found = (mistake_in(task, context) for context in tree.walk())
    return (mistake for mistake in found if mistake is not None)


def classify(task: Task, method: str, tree: Context, status: str, correct: bool) -> str | None:
    """One word for how a problem went wrong: its status, the kind of its first mistake, or `REPAIRED`.

    `REPAIRED` is a right answer in spite of a mistake. None is a right answer without one.
    """
    if status != "ok":
        return status
    if method != "retune":
        return None if correct else WRONG_COMPUTATION
    first = next(mistakes(task, tree), None)
    if correct:
        return REPAIRED if first else None
    return first.kind if first else WRONG_COMPUTATION
