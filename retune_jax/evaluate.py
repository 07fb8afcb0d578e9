"""Evaluates a trained run: accuracy by length in and beyond what it was trained on.

    python -m retune_jax.evaluate --workdir=runs/parity-retune-tiny
    python -m retune_jax.evaluate --workdir=runs/parity-retune-tiny --lengths=30:60 --problems_per_length=100 --output=long
    python -m retune_jax.evaluate --workdir=runs/parity-retune-tiny --config.decode.slots=16 --config.decode.max_depth=100

Prints a table and writes eval.json, accuracy.png, samples.json and report.html into the workdir, or into --output. The problems
of a length are the same for every run and method of a task. An evaluation that was interrupted goes on, and many processes
(launch/) share one. Any key of config.decode, config.eval and config.mesh can be set, and config.base where the base lies
elsewhere now; they are the run's own otherwise. evaluation/sizes.py fits the decoder to the problems.
"""

import contextlib

from absl import flags

from retune_jax import cli, config_file, disk, distributed
from retune_jax import config as recipes
from retune_jax.errors import UserError

WORKDIR = flags.DEFINE_string("workdir", None, "The folder of the run.")
LENGTHS = flags.DEFINE_string("lengths", None, "Lengths such as 1:40 or 4,8,16 (default: the run's config).")
PROBLEMS = flags.DEFINE_integer("problems_per_length", None, "Problems of each length (default: the run's config).")
CHECKPOINT = flags.DEFINE_string("checkpoint", "last", "Which one: last, best (config.train.keep_best) or a step.")
FLAGS = distributed.define_flags()
OUTPUT = flags.DEFINE_string("output", None, "Folder for the results (default: the workdir).")


def main(arguments: list[str]):
    """The command line."""
    with distributed.joined(FLAGS):
        _main(arguments)


def _main(arguments: list[str]):
    workdir = disk.folder(WORKDIR.value, "--workdir")
    output = workdir if OUTPUT.value is None else disk.folder(OUTPUT.value, "--output")
    config = config_file.read_run(workdir).unlock()
    if config.task == recipes.PRETRAINING:
        raise UserError(f"{workdir} holds a run of pretraining, which has no problems to be evaluated on")
    if (output / config_file.FILE).exists() and not output.samefile(workdir):
        raise UserError(f"--output: {output} is the folder of another run, which has results of its own")
    if LENGTHS.value is not None:
        config.eval.lengths = LENGTHS.value
    if PROBLEMS.value is not None:
        config.eval.problems_per_length = PROBLEMS.value
    if CHECKPOINT.value != "last" and OUTPUT.value is None:
        raise UserError("--checkpoint: give --output=DIR too; the run's own results are of its last checkpoint")
    cli.override(config, arguments, parts=("decode", "eval", "mesh", "base"))
    recipes.read_lengths(config.eval.lengths)
    from retune_jax.checkpoints import runs  # here, so that --help and mistakes need not wait for JAX
    from retune_jax.evaluation import sizes
    from retune_jax.evaluation.run import evaluate
    from retune_jax.models import sharding

    with distributed.alike():
        recipes.validate(config)
        mesh = sharding.fitting_mesh(config.mesh.data, config.mesh.fsdp, config.mesh.tensor)
        _, model, tokenizer = runs.load_model(workdir, mesh, config, CHECKPOINT.value)
        sizes.for_evaluation(config, tokenizer)  # refuses what does not fit before anything is written
    with contextlib.ExitStack() as ours:
        with distributed.alike():
            disk.claim(output)
            ours.enter_context(runs.hold(output))
        model = sharding.of_this_process(model, mesh)
        evaluate(workdir=output, config=config, model=model, tokenizer=tokenizer, run=workdir)
        if output.samefile(workdir) and distributed.is_first():  # the run's config says what its eval.json was made with
            config_file.write(config, workdir / config_file.FILE)


if __name__ == "__main__":
    flags.mark_flag_as_required("workdir")
    cli.run(main)
