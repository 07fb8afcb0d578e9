"""Performs a study: one of the paper's questions, answered by a table and a figure.

    python -m retune_jax.study sample_efficiency --recipe=configs/parity.py --workdir=studies/parity-samples
    python -m retune_jax.study ablations --recipe=configs/parity.py --workdir=studies/parts --quick
    python -m retune_jax.study resampling --recipe=configs/addition.py --workdir=studies/carry --config.train.steps=200
    python -m retune_jax.study errors --runs=runs/parity-retune-tiny,runs/parity-baseline-tiny --workdir=studies/errors
    python -m retune_jax.study memory

The studies:

    sample_efficiency   10 to 1000 distinct problems of each length, by Re-Tuning, scratchpad and baseline
    prompts             trained on one wording or on all, asked in each
    ablations           Re-Tuning without isolated contexts, and without carrying values over
    resampling          the task's drops and repeats of training contexts, or each context once
    errors              where solutions go wrong, by length and method, in runs that were evaluated (--runs); trains nothing
    memory              what a training step of LLaMA 7B and 13B takes by the paper's recipe, base in bfloat16, int8 and NF4;
                        with a --recipe, by method and length of its task; compiles programs, and trains nothing

The runs of a study are alike in all that it does not vary: each has Re-Tuning's steps, rates and tokens a step, and trains on
the task alone. Of the tiny model they are smaller than the recipe (studies/plans.py says by how much, and so does the table).
Any key of a run's configuration can be set for all of them, as the third command does.

Each run is an ordinary one in a folder of its own in the workdir; the same command again goes on where it was stopped, and
where all runs are there it only writes the table anew. In the end the workdir holds study.json, study.md and study.png.
`--quick` makes few and small runs, to see a study whole within minutes. What it finds is not to be quoted.
"""

import dataclasses
import shlex
import sys

from retune_jax import cli, disk
from retune_jax.errors import UserError
from retune_jax.studies.plans import STUDIES

OF_RUNS, OF_PROGRAMS = "errors", "memory"  # studies that train nothing


def main(arguments: list[str]):
    """The command line."""
    if not arguments or arguments[0] not in (*STUDIES, OF_RUNS, OF_PROGRAMS):
        given = f"no study is called {arguments[0]!r}" if arguments else "which study? (and its --workdir)"
        raise UserError(f"{given}; there are {', '.join((*STUDIES, OF_RUNS, OF_PROGRAMS))}")
    name, *overrides = arguments
    if wrong := next((text for text in overrides if not text.startswith("--config.")), None):
        raise UserError(f"unexpected argument {wrong!r}: behind the study's name come flags of its runs, --config.KEY=VALUE")
    if WORKDIR.value is None and name != OF_PROGRAMS:
        raise UserError(f"the study {name} needs a folder: give it a --workdir")
    workdir = disk.folder(WORKDIR.value, "--workdir") if WORKDIR.value is not None else None
    command = " ".join(["python -m retune_jax.study", *map(shlex.quote, sys.argv[1:])])
    if name == OF_RUNS:
        from retune_jax.studies import errors

        if not RUNS.value or RECIPE.value or overrides:
            raise UserError("the study of errors takes evaluated runs, --runs=DIR,DIR, and no recipe")
        folders = [disk.folder(text, "--runs") for text in RUNS.value]
        errors.read(folders)  # refuses what it cannot read before anything is written
        disk.claim(workdir)
        print(errors.perform(folders, workdir, command=command))
        return
    if name == OF_PROGRAMS:
        if RUNS.value or overrides:
            raise UserError("the study of memory takes a --recipe or nothing: it makes no runs whose keys could be set")
        from retune_jax.studies import memory, runner

        recipe = runner.configuration(RECIPE.value, "", [], quick=False) if RECIPE.value else None
        if workdir is not None:
            disk.claim(workdir)
        print(memory.perform(recipe, workdir, quick=QUICK.value, command=command))
        return
    if not RECIPE.value or RUNS.value:
        raise UserError(f"the study {name} makes runs of its own: give it a recipe, --recipe=configs/parity.py")
    print(perform(name, RECIPE.value, workdir, overrides, quick=QUICK.value, command=command))


def perform(name: str, recipe: str, workdir, overrides: list[str], *, quick: bool, command: str) -> str:
    """Makes the runs of a study that are not there yet, writes what they say, and returns it as Markdown.

    Args:
        name: of `STUDIES`.
        recipe: the config file of all runs, perhaps with arguments behind a colon.
        workdir: the study's folder, a Path.
        overrides: `--config.KEY=VALUE` flags of all runs.
        quick: fewer and smaller runs.
        command: what was typed, for the record.
    """
    from retune_jax import tasks
    from retune_jax.studies import runner, tables

    study = STUDIES[name]
    task = tasks.get(runner.configuration(recipe, "", overrides, quick=False).task)
    runs = (study.quick if quick else study.runs)(task)
    found, configs, seconds = runner.perform(study, runs, workdir, recipe=recipe, overrides=overrides, quick=quick)
    notes = [f"`{command}`"]
    if quick:
        notes.append("Quick: fewer points, few steps, few problems of few lengths. Not to be quoted.")
    notes.append(
        f"{task.name}, model {configs[0].model}, seed {configs[0].seed}. Each run: {_alike(configs)}. {len(runs)} runs in "
        f"{seconds.total:.0f} s: {seconds.steps:.0f} s of training steps, {seconds.evaluation:.0f} s of evaluation, and "
        f"{seconds.around:.1%} of the time for all that is around them."
    )
    facts = {
        "study": name,
        "task": task.name,
        "command": command,
        "quick": quick,
        "each_run": _alike(configs),
        "seconds": {**dataclasses.asdict(seconds), "around": seconds.around},
    }
    return tables.write(workdir, study, found, facts, notes)


def _alike(configs) -> str:
    """What the runs of a study train and ask: the same, but for what recipes must vary, such as longer rows."""
    said = []
    for one in configs:
        train, data = one.train, one.data
        said.append(
            (
                f"{train.steps} steps at rate {train.learning_rate:g}",
                f"{train.rows} rows of {data.sequence_length} tokens each step",
                f"{data.replay:.0%} of the examples replayed from the base's text" if data.replay else "nothing replayed",
                f"{one.eval.problems_per_length} problems of each of the lengths {one.eval.lengths}",
            )
        )
    return ", ".join(" or ".join(dict.fromkeys(parts)) for parts in zip(*said))


if __name__ == "__main__":
    from absl import flags

    RECIPE = flags.DEFINE_string("recipe", None, "The config file of all runs, perhaps with arguments behind a colon.")
    WORKDIR = flags.DEFINE_string("workdir", None, "The study's folder (memory: none, then it only prints).")
    RUNS = flags.DEFINE_list("runs", None, "Folders of evaluated runs (the study of errors).")
    QUICK = flags.DEFINE_bool("quick", False, "Few and small runs, to see the study whole within minutes.")
    cli.run(main)
