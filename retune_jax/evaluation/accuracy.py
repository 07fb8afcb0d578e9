"""Accuracy by length: the problems, the grading, and what is told of them (eval.json and a table).

The problems of a length depend on the task and the length alone, so that every run and every method is asked the same
ones, and a larger evaluation asks those of a smaller one first. They are drawn by a generator that training never uses.
Where a length has few problems (two lists of one bit), some come twice, and training has seen them all.
"""

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from retune_jax.evaluation import errors
from retune_jax.tasks.task import Task

EVALUATION = 0x5EED  # sets these draws apart from the training set's


def problems(task: Task, lengths: Sequence[int], per_length: int) -> list[tuple[int, object]]:
    """The problems (length, problem) of an evaluation, `per_length` of each length."""
    drawn = []
    for length in lengths:
        rng = np.random.default_rng([EVALUATION, length])
        drawn += [(length, task.sample(rng, length)) for _ in range(per_length)]
    return drawn


def wilson(correct: int, problems: int) -> tuple[float, float]:
    """The 95% score interval of a share (Wilson, 1927): honest at 0 and at 1, unlike mean ± 2 sigma."""
    z = 1.959964
    share, weight = correct / problems, z * z / problems
    middle = (share + weight / 2) / (1 + weight)
    half = z * math.sqrt(share * (1 - share) / problems + weight / (4 * problems)) / (1 + weight)
    # At the ends the interval reaches 0 or 1, which rounding would miss.
    return (0.0 if correct == 0 else middle - half), (1.0 if correct == problems else middle + half)


class Judged(NamedTuple):
    """What became of one problem; `error` is `errors.classify`'s word, None where nothing was wrong."""

    length: int
    correct: bool
    status: str
    error: str | None


def judged(task: Task, method: str, asked: Sequence[tuple[int, object]], results: Sequence) -> list[Judged]:
    """Grades the decoder's results for problems (length, problem), in their order."""
    found = []
    for (length, problem), result in zip(asked, results, strict=True):
        correct = result.status == "ok" and task.grade(problem, method, result.text)
        error = errors.classify(task, method, result.context, result.status, correct)
        found.append(Judged(length, correct, result.status, error))
    return found


def rows(found: Sequence[Judged]) -> list[dict]:
    """The rows of eval.json, one a length."""
    return [_row(length, [one for one in found if one.length == length]) for length in sorted({one.length for one in found})]


def _row(length: int, outcomes: list[Judged]) -> dict:
    correct = sum(one.correct for one in outcomes)
    low, high = wilson(correct, len(outcomes))
    return {
        "length": length,
        "problems": len(outcomes),
        "correct": correct,
        "accuracy": correct / len(outcomes),
        "low": low,
        "high": high,
        "statuses": dict(Counter(one.status for one in outcomes)),
        "errors": dict(Counter(one.error for one in outcomes if one.error)),
    }


def work(results: Sequence) -> dict:
    """What decoding took and what it was spared (`decoding.result.Work`), over all problems, and a problem's share.

    Every generated token is one that a pass of the model computed, one that had been guessed and held, or one of a subtree that
    the memo held. `kept` counts tokens of callers and common beginnings whose keys and values were there already.
    """
    sums = {name: sum(getattr(result.work, name) for result in results) for name in results[0].work._fields}
    per_problem = {
        name: sum(getattr(result, name) for result in results) / len(results) for name in ("tokens", "calls", "depth")
    }
    return sums | {"generated": sum(result.tokens for result in results), "per_problem": per_problem}


def table(report: dict) -> str:
    """The rows of a report as text; `*` marks the lengths that were trained on."""
    shortest, longest = report["trained_lengths"]
    lines = [f"{'length':>7} {'problems':>9} {'accuracy':>9}  {'95% interval':<15} statuses; errors"]
    for row in report["rows"]:
        mark = "*" if shortest <= row["length"] <= longest else " "
        errors = {name: count for name, count in row["errors"].items() if name not in row["statuses"]}
        words = "; ".join(filter(None, (_counts(row["statuses"]), _counts(errors))))
        interval = f"{row['low']:.3f} - {row['high']:.3f}"
        lines.append(f"{row['length']:>6}{mark} {row['problems']:>9} {row['accuracy']:>9.3f}  {interval:<15} {words}")
    return "\n".join(lines)


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
