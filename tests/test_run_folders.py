"""A run's folder: one process writes it, it goes on as what it is, survives damage, and a mistake leaves it as it was."""

import contextlib
import json
import os
import resource
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import small_run
from commands import ROOT, python

from retune_jax import config as recipes
from retune_jax import config_file, disk
from retune_jax.checkpoints import runs
from retune_jax.errors import UserError
from retune_jax.evaluation import run, sizes
from retune_jax.models import sharding
from retune_jax.training import loop, optimizer

STEPS = 2


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a small base, a run that was trained for two steps, and the data that it was trained on."""
    folder = tmp_path_factory.mktemp("faults")
    small_run.make(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "evaluate", noted([]))
        loop.train(configuration(folder), folder / "trained")
    return folder


def configuration(folder):
    """Two steps of training on little data."""
    config = config_file.read_run(folder / "run").unlock()
    config.data.update({"dir": str(folder / "data"), "scale": 0.001, "sequence_length": 128, "context_length": 128})
    config.train.update({"steps": STEPS, "rows": 4, "log_every": 1, "save_every": 1, "warmup": 0, "schedule": "constant"})
    return config.lock()


def noted(calls):
    """In place of `evaluate`, which has tests of its own: writes an eval.json that says what was asked."""

    def evaluate(*, workdir, config, model, tokenizer):
        calls.append(config.eval.lengths)
        (workdir / runs.EVAL).write_text(json.dumps({"settings": run.settings(config)}))

    return evaluate


@pytest.fixture
def config(made):
    return configuration(made)


@pytest.fixture
def workdir(made, tmp_path):
    """A copy of the trained run."""
    return Path(shutil.copytree(made / "trained", tmp_path / "trained"))


@pytest.fixture
def evaluated(monkeypatch):
    """The lengths of every evaluation that was asked for."""
    calls = []
    monkeypatch.setattr(loop, "evaluate", noted(calls))
    return calls


@pytest.mark.parametrize("key, value", [("eval.lengths", "1:2"), ("eval.problems_per_length", 7), ("decode.slots", 8)])
def test_what_changed_in_the_evaluation_is_evaluated_again(key, value, workdir, config, evaluated):
    loop.train(config, workdir)
    assert evaluated == [], "nothing changed"
    config.update_from_flattened_dict({key: value})
    loop.train(config, workdir)
    assert len(evaluated) == 1
    assert json.loads((workdir / "eval.json").read_text())["settings"] == run.settings(config_file.read_run(workdir))
    loop.train(config, workdir)
    assert len(evaluated) == 1


def test_fewer_steps_than_a_run_has_are_refused(workdir, config, evaluated):
    before = {path: path.read_bytes() for path in workdir.iterdir() if path.is_file()}
    config.train.steps = 1
    with pytest.raises(UserError, match=r"config\.train\.steps: .* has 2 steps already, more than 1"):
        loop.train(config, workdir)
    assert {path: path.read_bytes() for path in workdir.iterdir() if path.is_file()} == before


def test_a_second_writer_is_refused_and_a_killed_one_leaves_no_lock(workdir, config, evaluated):
    code = "import sys, time; from pathlib import Path; from retune_jax import disk\n"
    code += "with disk.locked(Path(sys.argv[1]) / '.lock', wait=False): print('held', flush=True); time.sleep(60)"
    before = sorted(workdir.rglob("*"))
    with python(code, workdir) as other:
        assert other.stdout.readline() == "held\n"
        config.train.steps = 3
        with pytest.raises(UserError, match="is being written to by another process"):
            loop.train(config, workdir)
        assert sorted(path for path in workdir.rglob("*") if path.name != ".lock") == before
        assert config_file.read_run(workdir).train.steps == STEPS
        other.kill()
    loop.train(config, workdir)
    assert runs.last_step(workdir) == 3 and not (workdir / ".lock").exists()


def test_base_weights_that_were_replaced_are_noticed(made, workdir, config, evaluated, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(made / "base", moved)
    config.base = str(moved)
    loop.train(config, workdir)  # the same weights elsewhere
    data = bytearray((moved / "weights.safetensors").read_bytes())
    data[-100] ^= 1
    (moved / "weights.safetensors").write_bytes(data)
    with pytest.raises(UserError, match="was trained from other base weights"):
        loop.train(config, workdir)
    with pytest.raises(UserError, match="was trained from other base weights"):
        runs.load_model(workdir, sharding.make_mesh(-1, 1, 1))


def test_limits_of_the_decoder_are_checked_before_anything_is_written(config, tmp_path):
    wrong = {"max_depth": -1, "stack_tokens": -1, "max_calls": -1, "tokens_per_step": 4096, "temperature": float("inf")}
    for key, value in wrong.items():
        with pytest.raises(UserError, match=key):
            changed = recipes.ConfigDict(config.to_dict())
            changed.decode[key] = value
            loop.train(changed, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_config_of_another_version_is_read_by_defaults_or_refused_by_name(workdir, capsys):
    given = json.loads((workdir / "config.json").read_text())
    del given["decode"]["draft"], given["train"]["keep"]
    (workdir / "config.json").write_text(json.dumps(given))
    config = config_file.read_run(workdir)
    assert config.decode.draft is True and config.train.keep == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "decode.draft=True" in said and "train.keep=2" in said
    for wrong in ({**given, "colour": 3}, {**given, "lora": 3}, {**given, "seed": "many"}, [given], "text", {"task": "parity"}):
        (workdir / "config.json").write_text(json.dumps(wrong))
        with pytest.raises(UserError, match=r"config\.json") as error:
            config_file.read_run(workdir)
        assert "\n" not in str(error.value)


def test_a_checkpoint_can_be_damaged_twice_at_the_same_step(workdir, config, evaluated):
    for _ in range(2):
        shutil.rmtree(workdir / "checkpoints" / str(STEPS) / "params")
        loop.train(config, workdir)
        assert runs.last_step(workdir) == STEPS
    assert (workdir / "checkpoints" / f"damaged-{STEPS}").is_dir()


def test_a_start_that_failed_does_not_block_its_correction(config, evaluated, tmp_path):
    config.data.context_length = 8
    with pytest.raises(UserError, match=r"config\.data\.context_length"):
        loop.train(config, tmp_path / "run")
    config.data.context_length, config.lora.alpha = 128, 3.0
    loop.train(config, tmp_path / "run")
    assert runs.last_step(tmp_path / "run") == STEPS


def test_the_config_of_another_program_is_not_written_over(config, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(UserError, match=r"config\.json is not the configuration of a run"):
        loop.train(config, tmp_path)
    assert (tmp_path / "config.json").read_text() == '{"model_type": "llama"}'
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_the_largest_seed_trains(config, evaluated, tmp_path):
    config.seed = 2**63 - 1
    config.train.steps = 1
    loop.train(config, tmp_path / "run")
    assert runs.last_step(tmp_path / "run") == 1


def cut(path):
    path.write_bytes(path.read_bytes()[:2000])


def overwrite(path):
    path.write_bytes(b"x" * path.stat().st_size)


def empty(path):
    for file in path.parent.iterdir():
        file.unlink()


@pytest.mark.parametrize("harm", [cut, overwrite, Path.unlink, empty])
def test_a_damaged_data_set_is_named_with_the_way_out(harm, made, config, evaluated, tmp_path):
    config.data.dir = str(shutil.copytree(made / "data", tmp_path / "data"))
    harm(next((tmp_path / "data").rglob("*train*")))
    with pytest.raises(UserError, match=r"data set .*parity-retune-0\.001-seed0.* is damaged .* delete this folder"):
        loop.train(config, tmp_path / "run")
    shutil.rmtree(next((tmp_path / "data").rglob("1.0.0")))
    assert len(loop.source(config)) > 0


def test_training_works_in_another_thread(config, evaluated, tmp_path):
    errors = []

    def work():
        try:
            loop.train(config, tmp_path / "run")
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert not errors and runs.last_step(tmp_path / "run") == STEPS


def test_a_learning_rate_that_jumps_is_said(workdir, config, evaluated, capfd):
    config.train.update({"steps": 4, "schedule": "cosine", "warmup": 0})
    other = workdir.parent / "cosine"
    loop.train(config, other)
    capfd.readouterr()
    config.train.steps = 5
    loop.train(config, other)
    said = [line for line in capfd.readouterr().err.splitlines() if "learning rate" in line]
    assert len(said) == 1 and "train.steps was 4 and is 5 now" in said[0] and "schedule=cosine" in said[0]
    assert optimizer.jump(config.train, config.train, 3) is None


def test_a_full_disk_is_an_error_of_its_own_and_the_last_checkpoint_is_good(workdir, config, evaluated):
    config.train.steps = 4
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with contextlib.ExitStack() as restored:
        restored.callback(resource.setrlimit, resource.RLIMIT_FSIZE, before)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))  # bytes a file: all but the arrays fit
        with pytest.raises(disk.DiskError, match=r"cannot be written: File too large; the last checkpoint is of step 2"):
            loop.train(config, workdir)
    loop.train(config, workdir)
    assert runs.last_step(workdir) == 4


def test_a_relative_base_means_the_same_from_any_folder(made, config, evaluated, tmp_path, monkeypatch):
    config.base = "base"
    monkeypatch.chdir(made)
    loop.train(config, tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    assert config_file.read_run(tmp_path / "run").base == str(made / "base")
    runs.load_model(tmp_path / "run", sharding.make_mesh(-1, 1, 1))


def test_evaluation_takes_overrides_longer_problems_64_bits_and_any_devices(workdir):
    config = config_file.read_run(workdir).unlock()
    config.mesh.update({"data": 1, "fsdp": 8, "tensor": 1})
    config.decode.update(dict.fromkeys(sizes.SIZED))
    config_file.write(config, workdir / "config.json")
    changed = ("--config.decode.slots=2", "--config.decode.max_tokens=50", "--config.eval.problems_per_length=1")
    command = [sys.executable, "-m", "retune_jax.evaluate", f"--workdir={workdir}", "--lengths=30:31", *changed]
    env = dict(os.environ, JAX_ENABLE_X64="1")
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "JAX_ENABLE_X64 is left aside" in done.stderr
    assert "laid out on the 4 devices here as (data=1, fsdp=4, tensor=1)" in done.stderr
    assert "sized for problems of length 31: decode.window=" in done.stderr and "max_tokens" not in done.stderr
    report = json.loads((workdir / "eval.json").read_text())
    assert [(row["length"], row["problems"]) for row in report["rows"]] == [(30, 1), (31, 1)]
    assert report["settings"] == run.settings(config_file.read_run(workdir)), "eval.json and config.json agree"
