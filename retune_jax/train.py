"""Trains a model on a task, evaluates it, and goes on where it was stopped.

    python -m retune_jax.train --config=configs/parity.py
    python -m retune_jax.train --config=configs/parity.py:method=scratchpad --workdir=runs/pad --config.train.steps=300

On many processes (launch/ starts them) it is the same command; each takes part in the run.

Any key of the configuration (retune_jax/config.py explains them) can be set as --config.KEY=VALUE. The same command again
goes on from the last checkpoint; Ctrl-C and SIGTERM save one. Exit code 0: trained and evaluated; 2: a mistake in the
command; 130 or 143: stopped by Ctrl-C or SIGTERM; 1: anything else, such as a loss that is no longer a number.
"""

from absl import flags
from ml_collections import config_flags

from retune_jax import cli, disk, distributed
from retune_jax import config as recipes

CONFIG = config_flags.DEFINE_config_file("config", help_string="Python file with get_config(), and its arguments.")
WORKDIR = flags.DEFINE_string("workdir", None, "The run's folder (default: runs/TASK-METHOD-MODEL).")
PRINT = flags.DEFINE_bool("print_config", False, "Print every key of the configuration, as flags, and end.")
FLAGS = distributed.define_flags()
flags.mark_flag_as_required("config")


def main(arguments: list[str]):
    """The command line."""
    cli.no_arguments(arguments)
    recipes.check_overrides(config_flags.get_override_values(flags.FLAGS["config"]))
    if PRINT.value:
        print("\n".join(recipes.as_flags(CONFIG.value)))
        return
    from retune_jax.training import loop  # here, so that --help and mistakes need not wait for JAX

    config = CONFIG.value
    name = f"{config.task.replace(':', '.')}-{config.method}-{config.model}"
    workdir = disk.folder(f"runs/{name}" if WORKDIR.value is None else WORKDIR.value, "--workdir")
    with distributed.joined(FLAGS):
        loop.train(config, workdir)


if __name__ == "__main__":
    cli.run(main)
