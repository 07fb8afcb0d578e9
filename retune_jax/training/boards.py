"""Where curves are drawn: TensorBoard's event files in the run's folder, and Weights & Biases where it is asked for.

    tensorboard --logdir=runs               shows all runs; config.log.tensorboard=False writes no event files
    --config.log.wandb=PROJECT              needs `pip install wandb`; the run's folder is the run's name there

metrics.jsonl holds the same numbers, and is what a run goes on by: after a crash both boards drop what lies past it.
"""

from pathlib import Path

from retune_jax.errors import UserError

FOLDER = "tensorboard"


class Boards:
    """The boards of a run that goes on after step `start`."""

    def __init__(self, workdir: Path, config, *, start: int):
        self.board = self.wandb = None
        if config.log.tensorboard:
            from tensorboardX import SummaryWriter  # here, as it takes its time

            self.board = SummaryWriter(str(workdir / FOLDER), purge_step=start + 1 if start else None, flush_secs=10)
        if config.log.wandb:
            try:
                import wandb
            except ImportError as error:
                raise UserError("config.log.wandb: pip install wandb") from error
            name = workdir.resolve().name
            self.wandb = wandb.init(project=config.log.wandb, name=name, id=name, resume="allow", config=config.to_dict())

    def write(self, line: dict):
        """A line of metrics.jsonl."""
        step = line["step"]
        numbers = {f"train/{name}": value for name, value in line.items() if name not in ("step", "time")}
        if self.board:
            for name, value in numbers.items():
                self.board.add_scalar(name, value, step, walltime=line["time"])
        if self.wandb:
            self.wandb.log(numbers, step=step)

    def close(self):
        """Writes out what is left."""
        if self.board:
            self.board.close()
        if self.wandb:
            self.wandb.finish()
