"""Training learns, goes on bit for bit where it stopped, touches nothing but what it trains, and ends clearly."""

import json
import os
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from absl import flags
from flax import nnx
from launched import ROOT, SHAPE

from retune_jax import cli, config_file, tokenizer
from retune_jax import config as recipes
from retune_jax.checkpoints import runs, weights
from retune_jax.errors import UserError
from retune_jax.evaluation import run
from retune_jax.models import sharding
from retune_jax.models.llama import Llama
from retune_jax.training import log, loop


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    """A folder with a small base, and room for the prepared data."""
    folder = tmp_path_factory.mktemp("shared")
    model = nnx.eval_shape(lambda: Llama(SHAPE, None, remat="none", rngs=nnx.Rngs(0)))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: rng.normal(0.2, 0.2, x.shape).astype(x.dtype), nnx.to_pure_dict(nnx.state(model)))
    weights.save_base(folder / "base", SHAPE, params, tokenizer.tiny().path)
    return folder


@pytest.fixture
def config(shared):
    config = recipes.recipe("", task="parity")
    config.model, config.base = "custom", str(shared / "base")
    config.lora.update({"rank": 2, "dropout": 0.1, "targets": "q,v,down"})
    config.data.update({"dir": str(shared / "data"), "scale": 0.001, "sequence_length": 128, "context_length": 128})
    config.train.update({"steps": 8, "rows": 8, "log_every": 1, "save_every": 3, "warmup": 2})
    config.eval.lengths = "1:3"
    return config


@pytest.fixture(autouse=True)
def evaluated(monkeypatch):
    """Evaluation has tests of its own: here it only notes that it was asked for."""
    calls = []

    def evaluate(*, workdir, config, model, tokenizer):
        calls.append(workdir)
        (workdir / runs.EVAL).write_text(json.dumps({"settings": run.settings(config)}))

    monkeypatch.setattr(loop, "evaluate", evaluate)
    return calls


def end(workdir, config):
    """What a run has come to: its last step and its parameters and optimizer state, by checkpoint."""
    checkpoints = runs.Checkpoints(workdir, keep=None)
    step = checkpoints.latest_step()
    found = checkpoints.manager.restore(step)
    checkpoints.close()
    return step, {"params": found["params"], "optimizer": found["optimizer"], "data": found["data"]}


def metrics(workdir):
    lines = [json.loads(line) for line in (workdir / runs.METRICS).read_text().splitlines()]
    measured = (
        "tokens_per_s",
        "tokens_per_s_per_device",
        "step_s",
        "data_wait_s",
        "checkpoint_s",
        "time",
    )  # the others are a function of the configuration
    return [{key: value for key, value in line.items() if key not in measured} for line in lines]


def written(workdir):
    files = (path for path in workdir.rglob("*") if path.is_file() and path.name != runs.CONFIG)
    return {path: path.stat().st_mtime_ns for path in files}


def assert_same_end(left, right):
    (left_step, left), (right_step, right) = left, right
    assert left_step == right_step
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for one, other in zip(jax.tree.leaves(left), jax.tree.leaves(right)):
        np.testing.assert_array_equal(one, other)


@pytest.fixture(scope="session")
def uninterrupted(shared, tmp_path_factory):
    """Filled by the first test that needs it: the folder of a run that nothing disturbed."""
    return tmp_path_factory.mktemp("uninterrupted") / "run"


@pytest.fixture
def whole(uninterrupted, config):
    if not uninterrupted.exists():
        loop.train(config, uninterrupted)
    return uninterrupted


def test_a_run_learns_evaluates_and_leaves_its_files(whole, config):
    lines = metrics(whole)
    assert [line["step"] for line in lines] == list(range(1, 9))
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert all(0 < line["fill"] <= 1 and line["target_tokens"] > 0 and line["grad_norm"] > 0 for line in lines)
    files = ["base.json", "checkpoints", "config.json", "eval.json", "metrics.jsonl", "tensorboard"]
    assert sorted(path.name for path in whole.iterdir()) == files
    assert sorted(path.name for path in (whole / "checkpoints").iterdir()) == ["6", "8"]
    assert runs.read_config(whole).to_dict() == config.to_dict()


def test_a_finished_run_says_so_and_does_nothing(whole, config, evaluated, capfd):
    before = written(whole)
    loop.train(config, whole)
    assert "has all its 8 steps" in capfd.readouterr().err
    assert evaluated == []
    assert written(whole) == before


def test_a_finished_run_without_an_evaluation_is_evaluated(whole, config, evaluated):
    (whole / runs.EVAL).unlink()
    loop.train(config, whole)
    assert evaluated == [whole]


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_the_same_command_ends_bit_for_bit_alike(number, code, whole, config, tmp_path, monkeypatch, capfd):
    step_of = log.Log.step

    def step_then_signal(self, step, metrics):
        step_of(self, step, metrics)
        if step == 5:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(log.Log, "step", step_then_signal)
    with pytest.raises(SystemExit) as stopped:
        loop.train(config, tmp_path)
    assert stopped.value.code == code
    assert "stopped after step 5" in capfd.readouterr().err
    assert not (tmp_path / runs.EVAL).exists()
    monkeypatch.undo()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "evaluate", lambda **_: None)
        loop.train(config, tmp_path)
    assert_same_end(end(tmp_path, config), end(whole, config))
    assert metrics(tmp_path) == metrics(whole)


SLOW = """
import sys, time
from pathlib import Path
from retune_jax import config_file
from retune_jax.training import log, loop
step = log.Log.step
log.Log.step = lambda *arguments: (step(*arguments), time.sleep(0.3))
loop.train(config_file.read(Path(sys.argv[1])), Path(sys.argv[2]))
"""


def test_a_killed_process_goes_on_from_its_last_checkpoint_bit_for_bit_alike(whole, config, tmp_path):
    config_file.write(config, tmp_path / "config.json")
    workdir = tmp_path / "run"
    command = [sys.executable, "-c", SLOW, str(tmp_path / "config.json"), str(workdir)]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 90
        while not (workdir / runs.METRICS).exists() or len((workdir / runs.METRICS).read_text().splitlines()) < 4:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        process.kill()
    with (workdir / runs.METRICS).open("a") as file:
        file.write('{"step": 5, "lo')  # a line that the kill cut off
    loop.train(config, workdir)
    assert_same_end(end(workdir, config), end(whole, config))
    assert metrics(workdir) == metrics(whole)


def test_more_steps_go_on_and_the_old_evaluation_goes(whole, config, tmp_path, evaluated):
    config.train.update({"steps": 3, "schedule": "constant"})
    loop.train(config, tmp_path)
    config.train.steps = 4
    loop.train(config, tmp_path)
    assert end(tmp_path, config)[0] == 4
    assert evaluated == [tmp_path, tmp_path]


def test_only_the_adapter_is_trained_and_saved(whole, config, shared):
    _, saved = end(whole, config)
    names = {sharding.path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(saved["params"])}
    assert names and all("/lora/" in name for name in names)
    mesh = sharding.make_mesh(-1, 1, 1)
    _, model, _ = runs.load_model(whole, mesh)
    base = weights.assemble(
        weights.load_base(str(shared / "base"), "custom"), None, remat="none", context_length=None, seed=0, mesh=mesh
    )
    _, frozen = nnx.split(model, runs.LoRAParam, ...)[1:]
    jax.tree.map(np.testing.assert_array_equal, nnx.to_pure_dict(frozen), nnx.to_pure_dict(nnx.state(base)))
    moved = [np.abs(x).max() for x in jax.tree.leaves(saved["params"])]
    assert all(size > 0 for size in moved)


def test_all_weights_are_trained_where_there_is_no_adapter(config, tmp_path, shared):
    config.lora.rank = 0
    config.train.update({"steps": 2})
    loop.train(config, tmp_path)
    before, after = (weights.load_base(str(folder), "custom") for folder in (shared / "base", tmp_path / "base"))
    changed = jax.tree.map(lambda a, b: bool((a[...] != b[...]).any()), before.params, after.params)
    assert all(jax.tree.leaves(changed))
    _, model, _ = runs.load_model(tmp_path, sharding.make_mesh(-1, 1, 1))
    jax.tree.map(np.testing.assert_array_equal, nnx.to_pure_dict(nnx.state(model)), after.params)


def test_a_base_is_made_by_stages_and_a_stage_goes_on_where_it_stopped(tmp_path):
    """As configs/base.py has it, but small: batches from a process of their own, with gaps; each stage from the one before."""
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # Grain's processes take flags

    def stage(number, name, steps):
        config = cli.configuration(f"{ROOT}/configs/base.py:stage={number}", [])
        config.base = "random" if number == 1 else str(tmp_path / "whole" / "base")
        config.data.update({"sequence_length": 256, "context_length": 256, "gaps": 512, "workers": 1, "curriculum": ((0, 4),)})
        config.train.update({"steps": steps, "rows": 4, "attention": "flash", "save_every": 2, "schedule": "constant"})
        loop.train(config, tmp_path / name)
        return (tmp_path / name / "base" / "weights.safetensors").read_bytes()

    whole = stage(1, "whole", 4)
    assert stage(1, "parts", 2) != whole
    assert stage(1, "parts", 4) == whole
    assert stage(2, "second", 1) != whole


def test_every_mesh_gives_the_same_losses(whole, config, tmp_path):
    config.mesh.update({"data": 1, "fsdp": 2, "tensor": 2})
    config.train.steps = 8
    loop.train(config, tmp_path)
    here, there = ([line["loss"] for line in metrics(folder)] for folder in (tmp_path, whole))
    np.testing.assert_allclose(here, there, rtol=2e-4)


def test_a_loss_that_is_no_number_stops_with_one_line(config, tmp_path, monkeypatch):
    config.train.update({"learning_rate": 1e30, "clip": 1e30, "save_every": 1, "schedule": "constant", "warmup": 0})
    with pytest.raises(SystemExit) as stopped:
        loop.train(config, tmp_path)
    assert "is not a finite number; the last checkpoint is of step " in stopped.value.code
    step = end(tmp_path, config)[0]
    assert f"the loss of step {step + 1} " in stopped.value.code


@pytest.mark.parametrize(
    "change, words",
    [
        ({"mesh.fsdp": 3}, "does not fit 4 devices"),
        ({"train.rows": 6}, "do not divide over 4 devices"),
        ({"base": "/nowhere"}, "/nowhere"),
        ({"decode.window": 20}, "config.decode.window"),
        ({"train.schedule": "steps"}, "config.train.schedule"),
    ],
)
def test_a_mistake_is_found_before_anything_is_written(config, tmp_path, change, words):
    config.update_from_flattened_dict(change)
    with pytest.raises(UserError, match=words):
        loop.train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_another_method_in_a_used_folder_is_refused(whole, config):
    config.method, config.decode.calls = "scratchpad", False
    before = sorted(whole.rglob("*"))
    with pytest.raises(UserError, match="method=retune, not scratchpad"):
        loop.train(config, whole)
    assert sorted(whole.rglob("*")) == before
    assert runs.read_config(whole).method == "retune"


# What a run says of itself


def test_a_line_of_metrics_says_how_fast_and_what_held_it_up(whole):
    lines = [json.loads(line) for line in (whole / runs.METRICS).read_text().splitlines()]
    for line in lines:
        assert {"loss", "learning_rate", "grad_norm", "fill", "tokens_per_s", "tokens_per_s_per_device"} <= line.keys()
        assert line["tokens_per_s_per_device"] == pytest.approx(line["tokens_per_s"] / 4, rel=0.01)
        assert 0 <= line["data_wait_s"] <= line["step_s"] and line["checkpoint_s"] >= 0
        assert "mfu" not in line, "nobody knows a CPU's peak"
    assert any(line["checkpoint_s"] > 0 for line in lines)


def test_tensorboard_files_hold_the_numbers_of_the_metrics(whole):
    from tensorboardX.proto.event_pb2 import Event

    found = {}
    for path in (whole / "tensorboard").iterdir():
        data, at = path.read_bytes(), 0
        while at < len(data):  # a record: its length, a checksum, an event, a checksum
            size = int.from_bytes(data[at : at + 8], "little")
            event = Event.FromString(data[at + 12 : at + 12 + size])
            found |= {(event.step, value.tag): value.simple_value for value in event.summary.value}
            at += size + 16
    lines = [json.loads(line) for line in (whole / runs.METRICS).read_text().splitlines()]
    for line in lines:
        assert found[line["step"], "train/loss"] == pytest.approx(line["loss"], rel=1e-6)
    assert {tag for _, tag in found} == {f"train/{name}" for name in lines[0] if name not in ("step", "time")}


def test_mfu_counts_what_a_frozen_base_takes_and_no_gradient_of_it():
    from retune_jax.models import presets
    from retune_jax.training import flops

    class Device:
        device_kind = "NVIDIA H100 80GB HBM3"

    llama = presets.get("llama_7b")
    assert flops.multiplied(llama) == pytest.approx(6.6e9, rel=0.01)
    assert flops.per_token(llama, 1000) == 4 * flops.multiplied(llama) + 6000
    assert flops.per_token(llama, 0) == 6 * flops.multiplied(llama)
    assert flops.peak(Device()) == 989e12


def test_the_best_checkpoints_by_validation_stay_besides_the_last(config, tmp_path):
    config.train.update({"steps": 6, "save_every": 1, "keep": 1, "keep_best": 2, "schedule": "constant", "warmup": 0})
    config.train.learning_rate = 0.3  # so that the loss goes up and down
    config.profile.update({"start": 2, "steps": 1})
    loop.train(config, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / runs.METRICS).read_text().splitlines()]
    losses = {line["step"]: line["validation_loss"] for line in lines}
    assert len(losses) == 6
    best = sorted(losses, key=losses.get)[:2]
    kept = {int(path.name) for path in (tmp_path / "checkpoints").iterdir()}
    assert kept == {6, *best}
    mesh = sharding.make_mesh(-1, 1, 1)

    def adapter(name):
        return jax.tree.leaves(nnx.state(runs.load_model(tmp_path, mesh, None, name)[1], runs.LoRAParam))

    assert all((a == b).all() for a, b in zip(adapter("best"), adapter(str(best[0]))))
    if best[0] != 6:
        assert any((a != b).any() for a, b in zip(adapter("best"), adapter("last")))
    with pytest.raises(UserError, match="has no checkpoint 99; it has"):
        runs.load_model(tmp_path, mesh, None, "99")
    assert list((tmp_path / "profile").rglob("*.xplane.pb")) and list((tmp_path / "profile").rglob("perfetto_trace.json.gz"))
