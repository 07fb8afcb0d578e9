"""What training says while it runs: metrics.jsonl, and a progress bar (a line now and then where there is no terminal).

A step's metrics are fetched only after the next step was dispatched, so that the device never waits for the host. A
line:

    {"step": 10, "loss": 1.9, "token_accuracy": 0.41, "learning_rate": 0.0015, "grad_norm": 2.1,
     "tokens_per_s": 9800.0, "target_tokens": 5210, "fill": 0.97, "time": 1767225600.0}

`loss` (nats a segment), `token_accuracy`, `grad_norm`, `target_tokens` and `fill` are of that step alone;
`tokens_per_s` counts all tokens that are not padding, since the line before; `time` is in seconds since 1970.
"""

import json
import math
import sys
import time
from pathlib import Path

from tqdm import tqdm

from retune_jax import disk

SECONDS_A_LINE = 15  # where stderr is not a terminal


class Diverged(Exception):
    """The loss is no longer a number. `step` says when."""

    def __init__(self, step: int):
        super().__init__(f"the loss of step {step} is not a finite number")
        self.step = step


class Log:
    """Writes the metrics of a run that goes on after step `start`; lines past `start`, of a lost stretch, are dropped.

    Args:
        path: metrics.jsonl; None writes no file (all processes but the first).
        start, steps: the last step done, and the last to do.
        every: steps a line.
        schedule: the learning rate of a step counted from 0.
    """

    def __init__(self, path: Path | None, *, start: int, steps: int, every: int, schedule):
        self.path, self.every, self.schedule = path, every, schedule
        self.waiting = None
        self.tokens, self.since = 0, time.monotonic()
        self.shown = -math.inf
        if path is not None:
            _forget(path, start)
        terminal = sys.stderr.isatty() and path is not None
        self.bar = tqdm(total=steps, initial=start, unit="step", desc="train", disable=not terminal, dynamic_ncols=True)

    def step(self, step: int, metrics: dict):
        """Takes the metrics of a step that was dispatched, and writes down those of the step before it."""
        self.flush()
        self.waiting = (step, metrics)

    def flush(self):
        """Waits for the last step and writes it down. Raises `Diverged` where its loss is not finite."""
        if self.waiting is None:
            return
        (step, metrics), self.waiting = self.waiting, None
        metrics = {name: value.item() for name, value in metrics.items()}
        if not math.isfinite(metrics["loss"]):
            raise Diverged(step)
        self.tokens += metrics.pop("tokens")
        self.bar.update()
        if step % self.every and step != self.bar.total and step != 1:
            return
        now = time.monotonic()
        line = {"step": step, **metrics, "learning_rate": float(self.schedule(step - 1))}
        line |= {"tokens_per_s": round(self.tokens / (now - self.since), 1), "time": round(time.time(), 3)}
        self.tokens, self.since = 0, now
        self._write(line)

    def _write(self, line: dict):
        self.bar.set_postfix(loss=f"{line['loss']:.4f}", tokens_per_s=f"{line['tokens_per_s']:.0f}")
        if self.path is None:
            return
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        last = line["step"] == self.bar.total
        if self.bar.disable and (last or time.monotonic() - self.shown > SECONDS_A_LINE):
            self.shown = time.monotonic()
            print(
                f"step {line['step']}/{self.bar.total}  loss {line['loss']:.4f}  token accuracy "
                f"{line['token_accuracy']:.4f}  {line['tokens_per_s']:.0f} tokens/s",
                file=sys.stderr,
            )

    def close(self):
        """Ends the progress bar."""
        self.bar.close()


def _forget(path: Path, start: int):
    if not path.exists():
        return
    lines = path.read_text().splitlines(keepends=True)
    kept = [line for line in lines if _step(line) <= start]
    if kept == lines:
        return
    with disk.replacing(path) as fresh:
        fresh.write_text("".join(kept))


def _step(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except ValueError:  # the last line of a process that was killed while it wrote
        return math.inf
