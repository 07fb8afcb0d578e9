"""Kills a run of two processes at random moments and sees that it ends as if nobody had touched it.

    PYTHONPATH=. python tests/kills.py --moments=100 --seed=0         # about 10 minutes on two cores

A moment is a random signal (SIGKILL or SIGTERM) to a random one of the two processes, half of them at a random time after the
start, half of them when a random number of steps more has been logged. After each, all processes have to be gone within
a bounded time (one that still waits for a dead one to come is told by SIGTERM, as srun and local.sh do); then the same
command is given again. Where a run gets to its end it is compared, bit for bit, with one that
was left alone, and the next moments hit a fresh one.
"""

import argparse
import json
import random
import shutil
import signal
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
from launched import Launched, lines, write_recipe

GONE = 90  # seconds in which all processes have to end
STEPS = 60


def command(recipe: Path, workdir: Path) -> list:
    """The run: many short steps, a checkpoint every other one."""
    settings = {"train.steps": STEPS, "train.save_every": 2, "eval.lengths": "1", "eval.problems_per_length": 4}
    return [
        "retune_jax.train",
        f"--config={recipe}",
        f"--workdir={workdir}",
        *(f"--config.{k}={v}" for k, v in settings.items()),
    ]


def end(workdir: Path) -> dict:
    """All that a run has come to: parameters, optimizer, place in the data, losses, evaluation."""
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    arrays = ocp.args.StandardRestore(fallback_sharding=here)
    with ocp.CheckpointManager((workdir / "checkpoints").absolute()) as manager:
        step = manager.latest_step()
        items = ocp.args.Composite(params=arrays, optimizer=arrays, data=ocp.args.JsonRestore())
        found = manager.restore(step, args=items)
    logged = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return {
        "step": step,
        "arrays": [np.asarray(x) for x in jax.tree.leaves((found["params"], found["optimizer"]))],
        "data": found["data"],
        "losses": [(line["step"], line["loss"], line["grad_norm"]) for line in logged],
        "evaluation": json.loads((workdir / "eval.json").read_text())["rows"],
    }


def same(left: dict, right: dict) -> bool:
    """Whether two ends are, bit for bit."""
    others = all(left[name] == right[name] for name in ("step", "data", "losses", "evaluation"))
    return others and all(np.array_equal(a, b) for a, b in zip(left["arrays"], right["arrays"], strict=True))


def survive(moments: int, seed: int, folder: Path, say=lambda line: None) -> int:
    """Hits runs at so many moments; returns how many came to their end, and raises AssertionError where one ended otherwise."""
    chance, recipe = random.Random(seed), write_recipe(folder)
    with Launched(command(recipe, folder / "alone"), folder / "alone-logs", processes=2, devices=1) as run:
        assert set(run.wait(600)) == {0}, run.said()
    alone = end(folder / "alone")
    begun = time.monotonic()
    with Launched(command(recipe, folder / "again"), folder / "again-logs", processes=2, devices=1) as run:
        assert set(run.wait(600)) == {0}, run.said()
    lasts = time.monotonic() - begun  # with everything compiled
    assert same(end(folder / "again"), alone), "two runs that are left alone differ"
    ended, left, run_number = 0, moments, 0
    workdir = folder / "run0"
    while left or (workdir / "checkpoints").exists():
        with Launched(command(recipe, workdir), folder / "logs", processes=2, devices=1) as run:
            if left:
                victim, number = chance.randrange(2), chance.choice([signal.SIGKILL, signal.SIGTERM])
                _wait(run, chance, workdir, lasts)
                run.signal(number, victim)
                left -= 1
                _tell_the_others(run)
            codes = run.wait(GONE if left else 600)  # AssertionError: somebody hangs
            said = "".join(run.said())
            assert "is damaged" not in said and "Traceback" not in said, said
        say(f"{moments - left} of {moments}: {codes}, {lines(workdir / 'metrics.jsonl')} steps logged")
        if set(codes) == {0}:
            assert same(end(workdir), alone), f"run {run_number} ended otherwise"
            shutil.rmtree(workdir)
            ended, run_number = ended + 1, run_number + 1
            workdir = folder / f"run{run_number}"
    return ended


def _tell_the_others(run: Launched):
    """What a launcher does some seconds after one of its processes has failed."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and any(process.poll() is None for process in run.running):
        time.sleep(0.05)
    if any(process.poll() for process in run.running):
        for process in run.running:
            process.terminate()


def _wait(run: Launched, chance: random.Random, workdir: Path, lasts: float):
    """Until the moment, or the end."""
    until, more = time.monotonic() + chance.uniform(0, lasts), None
    if chance.random() < 0.5:
        until, more = time.monotonic() + 2 * lasts, lines(workdir / "metrics.jsonl") + chance.randint(1, STEPS // 3)
    while time.monotonic() < until and any(process.poll() is None for process in run.running):
        if more is not None and lines(workdir / "metrics.jsonl") >= more:
            time.sleep(chance.uniform(0, 0.1))
            return
        time.sleep(0.005)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--moments", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        count = survive(given.moments, given.seed, Path(scratch), say=print)
        print(f"{given.moments} moments, {count} runs to their end, each bit-identical to the one that was left alone")
