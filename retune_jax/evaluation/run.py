"""One evaluation: problems, decoder, grading, and the files and the table that come of it."""

import json
from pathlib import Path

from retune_jax import config as recipes
from retune_jax import tasks
from retune_jax.checkpoints import runs
from retune_jax.decoding import DecoderConfig, RecursiveDecoder
from retune_jax.evaluation import accuracy, figure
from retune_jax.models import lora
from retune_jax.progress import bar

FIGURE = "accuracy.png"


def evaluate(*, workdir: Path, config, model, tokenizer) -> dict:
    """Evaluates a model as `config` says, prints the table, writes the results into `workdir`, and returns the report.

    Args:
        workdir: a folder that exists.
        config: a run's configuration; `decode` and `eval` say how.
        model: the model with its adapter, as `RecursiveDecoder` takes it.
        tokenizer: the model's.
    """
    task = tasks.reworded(tasks.get(config.task), config.eval.wording)
    asked = accuracy.problems(task, recipes.read_lengths(config.eval.lengths), config.eval.problems_per_length)
    asked.sort(key=lambda item: -item[0])  # the longest first, so that no long one is left over at the end
    decoder = RecursiveDecoder(lora.merge(model), tokenizer, DecoderConfig(**config.decode))
    prompts = [task.question(problem, config.method) for _, problem in asked]
    with bar(total=len(prompts), unit="problem", desc="evaluate") as shown:
        results = decoder.solve(prompts, progress=lambda ended, total: shown.update(ended - shown.n))
    report = {
        "task": config.task,
        "method": config.method,
        "trained_lengths": list(task.trained_lengths),
        "rows": accuracy.rows(task, config.method, asked, results),
    }
    figure.draw([report], workdir / FIGURE)
    fresh = workdir / (runs.EVAL + ".new")  # last, and in one go: where it stands, the evaluation is complete
    fresh.write_text(json.dumps(report, indent=1) + "\n")
    fresh.replace(workdir / runs.EVAL)
    print(accuracy.table(report))
    return report
