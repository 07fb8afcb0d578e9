"""samples.json: what stands behind an evaluation's numbers, problem by problem, for `report.html` and for reading by hand.

    wrong    every wrong answer: the question, its answer and the model's, and the first context that went wrong: what it was
             asked, what its calls had brought back, what it wrote, what is right
    trees    whole call trees of some problems of every length, right and wrong, as `calltree`'s records
    facts    problems, contexts, generated tokens and seconds
    config   the settings of the evaluation, and the `command` that was typed

Grading compares text exactly, so `[1,2]` is a wrong answer where `[1, 2]` is right; an explanation shows both.
"""

import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from retune_jax.evaluation import calltree, errors
from retune_jax.evaluation.accuracy import Judged
from retune_jax.tasks.task import Task

FILE = "samples.json"
CONTEXTS = 4000  # of all trees together
PER_LENGTH = {errors.WRONG_COMPUTATION: 2, errors.WRONG_CALL: 2, errors.REPAIRED: 1, None: 1}  # trees wanted of each outcome


def collect(
    task: Task,
    config,
    asked: Sequence[tuple[int, object]],
    results: Sequence,
    judged: Sequence[Judged],
    *,
    seconds: float,
) -> dict:
    """What samples.json holds.

    Args:
        task: the task, in the wording of the evaluation.
        config: the evaluation's configuration.
        asked: (length, problem) of every problem.
        results: the decoder's, in the same order.
        judged: what became of each.
        seconds: what decoding took.
    """
    told = [_told(task, config.method, one, problem, result) for one, (_, problem), result in zip(judged, asked, results)]
    wrong = [
        {**found, "first_mistake": calltree.first_mistake(calltree.records(task, config.method, result.context))}
        for found, result in zip(told, results)
        if not found["correct"]
    ]
    for found in wrong:
        found["explained"] = explained(found)
    return {
        "task": config.task,
        "method": config.method,
        "model": config.model,
        "opening": config.decode.opening,
        "facts": {
            "problems": len(told),
            "contexts": sum(result.calls + 1 for result in results),
            "tokens": sum(result.tokens for result in results),
            "deepest": max((result.depth for result in results), default=0),
            "seconds": round(seconds, 3),
        },
        "command": command(sys.argv),
        "config": config.to_dict(),
        "wrong": wrong,
        "trees": [
            {**told[n], "contexts": calltree.records(task, config.method, results[n].context)}
            for n in _chosen(judged, [result.calls + 1 for result in results])
        ],
    }


def explained(found: dict) -> str:
    """A wrong answer in a sentence."""
    first = found["first_mistake"]
    if first is None:
        return f"answered {found['value']!r}, and {found['answer']!r} is right"
    returned = f", got {', '.join(map(repr, first['returned']))} back" if first["returned"] else ""
    right = f", and {_line(first['right'])!r} is right" if first["right"] else ""
    ended = f" ({first['kind']})" if first["kind"] not in (errors.WRONG_CALL, errors.WRONG_COMPUTATION) else ""
    return f"{first['depth']} calls deep, asked {first['asked']!r}{returned}, wrote {_line(first['wrote'])!r}{right}{ended}"


def command(argv: Sequence[str]) -> str:
    """The command line behind `sys.argv`, as a user would type it."""
    parts = Path(argv[0]).with_suffix("").parts
    if "retune_jax" not in parts:
        return shlex.join(argv)
    module = ".".join(parts[len(parts) - 1 - parts[::-1].index("retune_jax") :]).removesuffix(".__main__")
    return shlex.join(["python", "-m", module, *argv[1:]])


def _told(task: Task, method: str, one: Judged, problem, result) -> dict:
    return {
        "length": one.length,
        "prompt": result.prompt,
        "answer": task.answer(problem),
        "value": task.final(method, result.text) if result.status == "ok" else "",
        "status": result.status,
        "correct": one.correct,
        "error": one.error,
        "calls": result.calls,
        "depth": result.depth,
        "tokens": result.tokens,
    }


def _chosen(judged: Sequence[Judged], contexts: Sequence[int]) -> Iterable[int]:
    """Numbers of the problems whose trees are kept: of every length some of each outcome, as long as there is room."""
    taken: dict[tuple, list[int]] = {}
    for number, found in enumerate(judged):
        places = taken.setdefault((found.length, found.error), [])
        if len(places) < PER_LENGTH.get(found.error, 1):
            places.append(number)
    # A first of every outcome before a second of any, and the lengths spread: the room may not do for all.
    order = sorted((rank, _spread(n), n) for places in taken.values() for rank, n in enumerate(places))
    chosen, room = [], CONTEXTS
    for _, _, number in order:
        if contexts[number] <= room:
            chosen.append(number)
            room -= contexts[number]
    return sorted(chosen, key=lambda n: (judged[n].length, n))


def _spread(number: int) -> float:
    return number * 0.618034 % 1


def _line(text: str) -> str:
    return " ".join(text.split())
