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

from retune_jax.protocol import Context, Segment, read
from retune_jax.tasks.task import Answer, Call, Task

WRONG_CALL, WRONG_COMPUTATION, REPAIRED = "wrong_call", "wrong_computation", "repaired"


@dataclass(frozen=True)
class Mistake:
    """The first segment of a context that means something else than what the solver writes in its place.

    Attributes:
        kind: `WRONG_CALL` where the solver calls here, `WRONG_COMPUTATION` where it answers.
        context: the one it is in.
        segment: what was written.
        right: the text of what the solver writes.
    """

    kind: str
    context: Context
    segment: Segment
    right: str


def mistake_in(task: Task, context: Context) -> Mistake | None:
    """The first mistake of one context, its callees aside; None where it has none, or nobody could do better.

    Segments are compared by what the protocol reads in them: words around a call or an answer are free.
    """
    value = None
    try:
        owner, problem = task.reading(context.prompt)
        solver = owner.solve(problem)
        for segment in context.segments:
            try:
                wanted = solver.send(value)
            except StopIteration as stop:
                wanted = stop.value
            if read(segment.text) != read(wanted.text):
                kind = WRONG_CALL if isinstance(wanted, Call) else WRONG_COMPUTATION
                return Mistake(kind, context, segment, wanted.text)
            if segment.callee is None or isinstance(wanted, Answer):
                return None
            value = segment.callee.value
    except Exception:
        # The prompt is no problem of the task, or the solver can do nothing with what a callee returned; tasks raise
        # whatever they like at rubbish. The mistake is the caller's, or the callee's.
        return None
    return None


def mistakes(task: Task, tree: Context) -> Iterator[Mistake]:
    """The first mistake of every context of a tree that has one, in the order in which they were written."""
    waiting = [(tree, mistake_in(task, tree), 0)]
    while waiting:
        context, mistake, index = waiting.pop()
        if index == len(context.segments):
            continue
        segment = context.segments[index]
        if mistake is not None and mistake.segment is segment:
            yield mistake
        waiting.append((context, mistake, index + 1))
        if segment.callee:
            waiting.append((segment.callee, mistake_in(task, segment.callee), 0))


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
