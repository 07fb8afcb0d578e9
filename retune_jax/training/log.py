"""What training says while it runs: metrics.jsonl, and a progress bar (a line now and then where there is no terminal).

A step's metrics are fetched only after the next step was dispatched, so that the device never waits for the host. A
line:

    {"step": 10, "loss": 1.9, "token_accuracy": 0.41, "learning_rate": 0.0015, "grad_norm": 2.1,
     "tokens_per_s": 9800.0, "target_tokens": 5210, "fill": 0.97, "step_s": 0.81, "data_wait_s": 0.002,
     "checkpoint_s": 0.0, "tokens_per_s_per_device": 9800.0, "mfu": 0.41, "time": 1767225600.0}

`loss` (nats a segment), `token_accuracy`, `grad_norm`, `target_tokens` and `fill` are of that step alone;
`tokens_per_s` counts all tokens that are not padding, since the line before; `time` is in seconds since 1970.
`step_s` is the mean since that line, compilation and saving included, `data_wait_s` what of it the host waited for data,
`checkpoint_s` the whole time since then in which saving held the loop up. `mfu` stands where the device's peak is known
(flops.py). A line at a checkpoint may have `validation_loss`.
"""

import contextlib
import json
import math
import sys
import time
from pathlib import Path

import jax
from tqdm import tqdm

from retune_jax import disk
from retune_jax.training.flops import peak

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
        flops: of a token.
        boards: where the lines go besides.
    """

    def __init__(self, path: Path | None, *, start: int, steps: int, every: int, schedule, flops: float, boards=None):
        self.path, self.every, self.schedule = path, every, schedule
        self.flops, self.peak, self.boards = flops, peak(jax.local_devices()[0]), boards
        self.waiting: tuple[int, dict] | None = None
        self.tokens, self.steps, self.since = 0, 0, time.monotonic()
        self.held = {"data_wait_s": 0.0, "checkpoint_s": 0.0}
        self.extra = {}
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
        self.steps += 1
        self.bar.update()
        if step % self.every and step != self.bar.total and step != 1:
            return
        now = time.monotonic()
        line = {"step": step, **metrics, "learning_rate": float(self.schedule(step - 1))}
        line |= self._speed(now - self.since) | self.extra | {"time": round(time.time(), 3)}
        self.tokens, self.steps, self.since, self.extra = 0, 0, now, {}
        self.held = dict.fromkeys(self.held, 0.0)
        self._write(line)

    def _speed(self, seconds: float) -> dict[str, float]:
        """What is measured, of the stretch since the last line."""
        each = self.tokens / seconds / jax.device_count()
        measured = {
            "tokens_per_s": round(self.tokens / seconds, 1),
            "tokens_per_s_per_device": round(each, 1),
            "step_s": round(seconds / self.steps, 6),
            "data_wait_s": round(self.held["data_wait_s"] / self.steps, 6),
            "checkpoint_s": round(self.held["checkpoint_s"], 6),
        }
        return measured | ({"mfu": round(each * self.flops / self.peak, 4)} if self.peak else {})

    @contextlib.contextmanager
    def holding(self, name: str):
        """Counts the time of the block as `data_wait_s` or `checkpoint_s`."""
        begun = time.monotonic()
        try:
            yield
        finally:
            self.held[name] += time.monotonic() - begun

    def add(self, **numbers: float):
        """Numbers that the next line says besides."""
        self.extra |= numbers

    def _write(self, line: dict):
        self.bar.set_postfix(loss=f"{line['loss']:.4f}", tokens_per_s=f"{line['tokens_per_s']:.0f}")
        if self.path is None:
            return
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        if self.boards:
            self.boards.write(line)
        last = line["step"] == self.bar.total
        if self.bar.disable and (last or time.monotonic() - self.shown > SECONDS_A_LINE):
            self.shown = time.monotonic()
            print(
                f"step {line['step']}/{self.bar.total}  loss {line['loss']:.4f}  token accuracy "
                f"{line['token_accuracy']:.4f}  {line['tokens_per_s']:.0f} tokens/s",
                file=sys.stderr,
            )

    def close(self):
        """Ends the progress bar, and the boards."""
        self.bar.close()
        if self.boards:
            self.boards.close()


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
