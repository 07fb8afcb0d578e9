"""Sweeps a recipe: a run for every combination of some settings, and which of them goes farthest beyond what it was trained on.

    python -m retune_jax.sweep --recipe=configs/addition.py --workdir=sweeps/addition \
        --over=train.learning_rate=1e-3,2e-3,4e-3 --over=lora.rank=8,16 -- --config.train.steps=700

A run is judged by what it would write, not by solving: the share of first calls and of last answers that are exact to the last
token, after the right text, at lengths in and beyond its training (evaluation/skills.py). That takes seconds, and its problems
have a seed of their own, so that the run which is chosen can be evaluated afterwards on problems that had no say in the choice.
Where no run gets beyond its training, the trained length decides, and where none writes anything exact, the training loss.

What stands behind `--` goes to every run. The same command again goes on where it was stopped. In the end the workdir holds
sweep.json and sweep.md, the best run first.
"""

import itertools
import json
import statistics
import sys
from pathlib import Path

from retune_jax import cli, disk, tasks
from retune_jax import config as recipes
from retune_jax.checkpoints.runs import METRICS
from retune_jax.errors import UserError
from retune_jax.evaluation import skills
from retune_jax.processes import call

JSON, MARKDOWN, EXACT = "sweep.json", "sweep.md", "exact.json"
QUICK = ("--config.eval.problems_per_length=1",)  # a run ends with an evaluation; here it is not what counts


def combinations(over: list[str]) -> list[tuple[str, ...]]:
    """Every combination of `KEY=VALUE,VALUE` flags, each as `KEY=VALUE`s."""
    choices = []
    for text in over:
        key, equals, values = text.partition("=")
        if not key or not equals or not all(values.split(",")):
            raise UserError(f"--over={text}: write KEY=VALUE,VALUE,…")
        choices.append([f"{key}={value}" for value in values.split(",")])
    return list(itertools.product(*choices))


def lengths_to_judge(task, config) -> list[int]:
    """The longest trained length, and five more up to the longest that the recipe evaluates."""
    first, last = task.trained_lengths[1], max(recipes.read_lengths(config.eval.lengths))
    return sorted({first + round((last - first) * part / 5) for part in range(6)})


def score(exact: dict[str, dict[str, float]], trained: int) -> float:
    """One number for a run: the share of contexts right in call and answer, averaged over the lengths beyond the trained."""
    parts = [exact[name] for name in (skills.CALLS, skills.ANSWERS) if name in exact]
    shares = []
    for length in parts[0]:
        if int(length) > trained or len(parts[0]) == 1:
            product = 1.0
            for part in parts:
                product *= part[length]
            shares.append(product)
    return sum(shares) / len(shares)


def last_loss(folder: Path) -> float:
    """The training loss of a run's last steps, averaged over a tenth of its log."""
    losses = [json.loads(line)["loss"] for line in (folder / METRICS).read_text().splitlines()]
    return statistics.fmean(losses[-max(1, len(losses) // 10) :])


def perform(recipe: str, workdir: Path, over: list[str], extra: list[str], lengths: str | None, problems: int):
    """Makes the runs that are not there yet, judges each, and writes the table.

    Raises:
        SystemExit: with a run's own exit code when it does not end well; its message stands on stderr.
    """
    runs, found = combinations(over), []
    overrides_of = [[f"--config.{setting}" for setting in settings] for settings in runs]
    configs = [cli.configuration(recipe, [*overrides, *extra]) for overrides in overrides_of]  # a mistake is found here
    for number, (settings, overrides, config) in enumerate(zip(runs, overrides_of, configs), start=1):
        shown = ", ".join(settings) or "as it is"
        print(f"retune_jax: run {number} of {len(runs)}: {shown}", file=sys.stderr)
        folder = workdir / ("-".join(setting.rpartition(".")[2] for setting in settings) or "recipe")
        task = tasks.get(config.task)
        trained = task.trained_lengths[1]
        judged = recipes.read_lengths(lengths) if lengths else lengths_to_judge(task, config)
        quick = (*QUICK, f"--config.eval.lengths={task.trained_lengths[0]}")
        _run(["retune_jax.train", f"--config={recipe}", f"--workdir={folder}", *overrides, *extra, *quick])
        asked = {"lengths": judged, "problems": problems, "step": config.train.steps}
        report = _read(folder / EXACT)
        if report is None or report["asked"] != asked:
            _run(
                [
                    "retune_jax.evaluation.skills",
                    "--task_only",
                    f"--workdir={folder}",
                    f"--lengths={','.join(map(str, judged))}",
                    f"--problems={problems}",
                    f"--output={folder / EXACT}",
                ]
            )
            report = _read(folder / EXACT) | {"asked": asked}
            disk.write(folder / EXACT, json.dumps(report, indent=1) + "\n")
        found.append(
            {
                "settings": list(settings),
                "folder": folder.name,
                "score": score(report["exact"], trained),
                "loss": last_loss(folder),
                "exact": report["exact"],
            }
        )
    found.sort(key=lambda run: (-run["score"], -score(run["exact"], trained=0), run["loss"]))  # type: ignore[arg-type,operator]
    text = table(found)
    disk.write(workdir / MARKDOWN, text + "\n")
    disk.write(workdir / JSON, json.dumps({"recipe": recipe, "extra": extra, "runs": found}, indent=1) + "\n")
    print(text)


def table(found: list[dict]) -> str:
    """The runs in Markdown, with their shares of exact calls and answers by length."""
    lengths = list(next(iter(found[0]["exact"].values())))
    lines = [f"| settings | beyond | loss | {' | '.join(lengths)} |", "|---" * (len(lengths) + 3) + "|"]
    for run in found:
        cells = ("/".join(f"{shares[length]:.2f}" for shares in run["exact"].values()) for length in lengths)
        scores = f"{run['score']:.3f} | {run['loss']:.3g}"
        lines.append(f"| {', '.join(run['settings']) or 'as it is'} | {scores} | {' | '.join(cells)} |")
    names = " / ".join(name.removeprefix("task: ") for name in found[0]["exact"])
    beyond = "beyond: both right, averaged over the lengths beyond the trained ones"
    return "\n".join([*lines, "", f"{names}, exact; {beyond}; loss: of the last steps."])


def _run(arguments: list[str]):
    if code := call([sys.executable, "-m", *arguments]):
        sys.exit(code)


def _read(path: Path) -> dict | None:
    return json.loads(path.read_text()) if path.exists() else None


def main(arguments: list[str]):
    """The command line."""
    if wrong := next((text for text in arguments if not text.startswith("--")), None):
        raise UserError(f"unexpected argument {wrong!r}: behind -- come flags for every run")
    workdir = disk.folder(WORKDIR.value, "--workdir")
    perform(RECIPE.value, workdir, OVER.value, arguments, LENGTHS.value, PROBLEMS.value)


if __name__ == "__main__":
    from absl import flags

    RECIPE = flags.DEFINE_string("recipe", None, "The config file of all runs.", required=True)
    WORKDIR = flags.DEFINE_string("workdir", None, "The sweep's folder.", required=True)
    OVER = flags.DEFINE_multi_string("over", [], "KEY=VALUE,VALUE,…: a key of the configuration and what to try for it.")
    LENGTHS = flags.DEFINE_string("lengths", None, "Lengths to judge by (default: six from the longest trained on).")
    PROBLEMS = flags.DEFINE_integer("problems", 64, "Problems of each length to judge by.", lower_bound=1)
    cli.run(main)
