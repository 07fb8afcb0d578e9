"""One evaluation: problems, decoder, grading, and the files and the table that come of it."""

import json
import time
from pathlib import Path

from retune_jax import config as recipes
from retune_jax import disk, distributed, tasks
from retune_jax import report as pages
from retune_jax.checkpoints import runs
from retune_jax.decoding import RecursiveDecoder
from retune_jax.decoding.result import vote
from retune_jax.evaluation import accuracy, figure, partial, samples, sizes
from retune_jax.models import lora
from retune_jax.models.llama import apart
from retune_jax.progress import bar

FIGURE = "accuracy.png"


def settings(config) -> dict:
    """What `config` says about the evaluation, as eval.json holds it."""
    return {"decode": config.decode.to_dict(), "eval": config.eval.to_dict()}


def evaluated(workdir: Path, config) -> bool:
    """Whether the results in `workdir` are there, and are what `config` asks for."""
    try:
        return json.loads((workdir / runs.EVAL).read_text()).get("settings") == settings(config)
    except (OSError, ValueError):
        return False


def evaluate(*, workdir: Path, config, model, tokenizer, run: Path | None = None) -> dict | None:
    """Evaluates a model as `config` says, prints the table, writes the results into `workdir`, and returns the report.

    Many processes share the problems; process 0 writes and returns, the others return None. Where it was interrupted, it goes
    on.

    Args:
        workdir: a folder that exists.
        config: a run's configuration; `decode` and `eval` say how.
        model: the model with its adapter, as `RecursiveDecoder` takes it. It is used up: its weights may be gone afterwards.
        tokenizer: the model's.
        run: the folder with the run's training curves; `workdir` by default.
    """
    task = tasks.reworded(tasks.get(config.task), config.eval.wording)
    asked = accuracy.problems(task, recipes.read_lengths(config.eval.lengths), config.eval.problems_per_length)
    asked.sort(key=lambda item: -item[0])  # the longest first, so that no long one is left over at the end
    sized = sizes.for_evaluation(config, tokenizer)
    sizes.say(config.decode, sized, f"problems of length {asked[0][0]}")
    what = partial.fingerprint({"task": config.task, "method": config.method, "settings": settings(config)}, model)
    decoder = RecursiveDecoder(apart(lora.merge(model), donate=True), tokenizer, sized)
    prompts = [task.question(problem, config.method) for _, problem in asked for _ in range(config.eval.samples)]
    begun = time.perf_counter()
    with bar(total=len(prompts), unit="problem", desc="evaluate", disable=not distributed.is_first()) as shown:
        results = partial.solve(decoder, prompts, workdir, what, shown.update)
    if results is None:  # process 0 has them
        return None
    work = accuracy.work(results)
    results = [vote(results[first : first + config.eval.samples]) for first in range(0, len(results), config.eval.samples)]
    seconds = time.perf_counter() - begun  # since this start
    judged = accuracy.judged(task, config.method, asked, results)
    report = {
        "task": config.task,
        "method": config.method,
        "trained_lengths": list(task.trained_lengths),
        "settings": settings(config),
        "rows": accuracy.rows(judged),
        "work": work,
    }
    behind = samples.collect(task, config, asked, results, judged, seconds=seconds)
    with disk.replacing(workdir / FIGURE) as fresh:
        figure.draw([report], fresh)
    with disk.replacing(workdir / samples.FILE) as fresh:
        fresh.write_text(json.dumps(behind, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")
    pages.write([pages.shown(workdir.resolve().name, report, behind, run or workdir)], workdir / pages.FILE)
    with disk.replacing(workdir / runs.EVAL) as fresh:  # last: where it stands, the evaluation is complete
        fresh.write_text(json.dumps(report, indent=1) + "\n")
    partial.forget(workdir)
    print(accuracy.table(report))
    return report
