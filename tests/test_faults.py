"""What a user or a machine does wrong ends well: nothing silent, nothing lost. Each test is a fault that once did not."""

import contextlib
import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import small_run
from commands import ROOT

from retune_jax import config as recipes
from retune_jax import config_file, disk, tasks, tokenizer
from retune_jax.checkpoints import runs, weights
from retune_jax.data import builder
from retune_jax.errors import UserError
from retune_jax.evaluation import accuracy, run, sizes
from retune_jax.models import sharding
from retune_jax.protocol import Context, Segment
from retune_jax.studies import runner
from retune_jax.training import loop, optimizer, stop

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


def python(code, *arguments, **options):
    """A process that runs `code` as a command of this project does: its signals are answered by `interrupts`."""
    begin = "from retune_jax import interrupts; interrupts.install()\n"
    env = dict(os.environ, PYTHONPATH=str(ROOT))
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", begin + code, *map(str, arguments)], env=env, **pipes, **options)


def until(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# 1 - 3: studies

CHILD = """
import pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[1])
def save(number, frame):
    time.sleep(1)
    (folder / "saved").touch()
    sys.exit(128 + number)
signal.signal(signal.SIGINT, save)
signal.signal(signal.SIGTERM, save)
(folder / "ready").touch()
time.sleep(60)
"""
PARENT = """
import sys
from retune_jax.processes import call
call([sys.executable, "-c", sys.argv[1], sys.argv[2]])
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_1_2_a_signal_to_a_study_is_passed_on_and_its_run_waited_for(number, tmp_path):
    with python(PARENT, CHILD, tmp_path) as parent:
        until((tmp_path / "ready").exists)
        parent.send_signal(number)
        _, err = parent.communicate(timeout=30)
    assert parent.returncode == 128 + number
    assert (tmp_path / "saved").exists(), "the run had the time that it took"
    assert err.count("\n") == 1 and err.startswith("retune_jax: ")


def test_3_a_run_counts_for_a_study_only_when_its_config_says_what_is_asked(workdir, config):
    (workdir / "eval.json").write_text("{}")
    assert runner.counts(workdir, config_file.read_run(workdir))
    for key, value in {"train.learning_rate": 0.5, "eval.lengths": "1:9", "train.steps": 9, "decode.slots": 3}.items():
        wanted = config_file.read_run(workdir)
        wanted.update_from_flattened_dict({key: value})
        assert not runner.counts(workdir, wanted), key


# 4 - 8: one folder, one run


@pytest.mark.parametrize("key, value", [("eval.lengths", "1:2"), ("eval.problems_per_length", 7), ("decode.slots", 8)])
def test_4_what_changed_in_the_evaluation_is_evaluated_again(key, value, workdir, config, evaluated):
    loop.train(config, workdir)
    assert evaluated == [], "nothing changed"
    config.update_from_flattened_dict({key: value})
    loop.train(config, workdir)
    assert len(evaluated) == 1
    assert json.loads((workdir / "eval.json").read_text())["settings"] == run.settings(config_file.read_run(workdir))
    loop.train(config, workdir)
    assert len(evaluated) == 1


def test_4_fewer_steps_than_a_run_has_are_refused(workdir, config, evaluated):
    before = {path: path.read_bytes() for path in workdir.iterdir() if path.is_file()}
    config.train.steps = 1
    with pytest.raises(UserError, match=r"config\.train\.steps: .* has 2 steps already, more than 1"):
        loop.train(config, workdir)
    assert {path: path.read_bytes() for path in workdir.iterdir() if path.is_file()} == before


def test_5_a_second_writer_is_refused_and_a_killed_one_leaves_no_lock(workdir, config, evaluated):
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


def test_6_what_follows_from_the_method_is_refused_when_it_is_set_apart():
    for key, value in {"decode.calls": False, "decode.opening": "\nAnswer:", "decode.carry": False}.items():
        config = recipes.recipe("", task="parity")
        config.update_from_flattened_dict({key: value})
        with pytest.raises(UserError, match=f"config.{key}"):
            recipes.validate(config)
    for key in ("method", "model"):
        with pytest.raises(UserError, match=rf"--config=FILE\.py:{key}=x"):
            recipes.check_overrides({key: "x"})


def test_7_a_base_of_another_shape_than_the_model_named_is_refused(made):
    with pytest.raises(UserError, match=r"no tiny \(layers 1, not 4\)"):
        weights.load_base(str(made / "base"), "tiny")
    with pytest.raises(UserError, match="no llama_7b"):
        weights.load_base("tiny", "llama_7b")
    assert weights.load_base(str(made / "base"), "custom").shape.layers == 1


def test_8_base_weights_that_were_replaced_are_noticed(made, workdir, config, evaluated, tmp_path):
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


# 9: sizes


@pytest.mark.parametrize("method", ["retune", "scratchpad", "no_isolation"])
@pytest.mark.parametrize("task", tasks.names())
def test_9_the_decoder_is_sized_for_the_problems(task, method):
    config = recipes.recipe(f"method={method}", task=task)
    longest = tasks.get(task).trained_lengths[1] * 2
    config.eval.update({"lengths": f"1:{longest}", "problems_per_length": 3})
    chosen = sizes.for_evaluation(config, tokenizer.tiny())
    for _, problem in accuracy.problems(tasks.get(task), [longest], 3):
        tree = tasks.get(task).written(problem, method)
        needed = sizes.need(tree, config.decode.opening, tokenizer.tiny().encode)
        assert needed.window <= chosen.window and needed.stack <= chosen.stack_tokens and needed.depth <= chosen.max_depth
        assert needed.tokens <= chosen.max_tokens and needed.calls <= chosen.max_calls


def test_9_what_a_solution_needs_is_counted():
    words = str.split
    leaf = Context("c", (Segment("1 2"),))
    tree = Context("a b", (Segment("call it", leaf), Segment("3")))
    # BOS a b open | call it | Return: 2 Answer: | 3, and BOS c open | 1 2; each segment has its EOS
    assert sizes.need(tree, " open", words) == sizes.Need(window=11, stack=6, depth=1, tokens=8, calls=1)


def test_9_what_the_user_sets_is_kept(capsys):
    config = recipes.recipe("", task="parity")
    config.decode.update({"max_depth": 3, "max_calls": 5, "window": 300})
    chosen = sizes.for_evaluation(config, tokenizer.tiny())
    assert (chosen.max_depth, chosen.max_calls, chosen.window) == (3, 5, 300) and chosen.stack_tokens > 0
    sizes.say(config.decode, chosen, "that")
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"decode.stack_tokens={chosen.stack_tokens}" in said and "window" not in said
    config.decode.window = 100
    with pytest.raises(UserError, match=r"100 tokens do not hold a problem of length 40, which takes 188: .*window=208"):
        sizes.for_evaluation(config, tokenizer.tiny())


# 11 - 14: configurations and folders


def test_11_limits_of_the_decoder_are_checked_before_anything_is_written(config, tmp_path):
    wrong = {"max_depth": -1, "stack_tokens": -1, "max_calls": -1, "tokens_per_step": 4096, "temperature": float("inf")}
    for key, value in wrong.items():
        with pytest.raises(UserError, match=key):
            changed = recipes.ConfigDict(config.to_dict())
            changed.decode[key] = value
            loop.train(changed, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_12_a_config_of_another_version_is_read_by_defaults_or_refused_by_name(workdir, capsys):
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


def test_13_a_checkpoint_can_be_damaged_twice_at_the_same_step(workdir, config, evaluated):
    for _ in range(2):
        shutil.rmtree(workdir / "checkpoints" / str(STEPS) / "params")
        loop.train(config, workdir)
        assert runs.last_step(workdir) == STEPS
    assert (workdir / "checkpoints" / f"damaged-{STEPS}").is_dir()


def test_14_a_start_that_failed_does_not_block_its_correction(config, evaluated, tmp_path):
    config.data.context_length = 8
    with pytest.raises(UserError, match=r"config\.data\.context_length"):
        loop.train(config, tmp_path / "run")
    config.data.context_length, config.lora.alpha = 128, 3.0
    loop.train(config, tmp_path / "run")
    assert runs.last_step(tmp_path / "run") == STEPS


def test_14_the_config_of_another_program_is_not_written_over(config, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(UserError, match=r"config\.json is not the configuration of a run"):
        loop.train(config, tmp_path)
    assert (tmp_path / "config.json").read_text() == '{"model_type": "llama"}'
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


# 15 - 20: machines and values


def test_16_a_run_is_laid_out_on_the_devices_there_are(monkeypatch, capsys):
    layouts = {(8, 1, 1): (4, 1, 1), (1, 8, 1): (1, 4, 1), (2, 2, 2): (1, 2, 2), (1, 1, 3): (4, 1, 1), (-1, 1, 8): (1, 1, 4)}
    for asked, given in layouts.items():
        assert tuple(sharding.fitting_mesh(*asked).shape.values()) == given
        assert capsys.readouterr().err.count("\n") == 1
    assert tuple(sharding.fitting_mesh(-1, 2, 1).shape.values()) == (2, 2, 1)
    assert capsys.readouterr().err == "", "what fits is taken as it is"
    with pytest.raises(UserError, match="sizes are positive"):
        sharding.fitting_mesh(0, 1, 1)


@pytest.mark.parametrize("place", ["gs://bucket/a", "s3://bucket/a", "hdfs:/a", "", " ", None])
def test_17_only_local_folders_are_taken_for_such(place, config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="--workdir"):
        disk.folder(place, "--workdir")
    with pytest.raises(UserError, match=r"config\.data\.dir"):
        builder.prepare("parity", "retune", scale=0.001, seed=0, data_dir=place, progress=False)
    assert not list(tmp_path.iterdir())


def test_18_a_user_without_a_home_is_told_so(monkeypatch):
    def homeless(self):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", homeless)
    with pytest.raises(UserError, match=r"config\.data\.dir: '~/data' needs a home folder"):
        disk.folder("~/data", "config.data.dir")


@pytest.mark.parametrize("seed", [-1, 2**63, 2**64, 2**70])
def test_19_a_seed_that_is_no_seed_is_named(seed, config):
    for key in ("seed", "decode.seed"):
        changed = recipes.ConfigDict(config.to_dict())
        changed.update_from_flattened_dict({key: seed})
        with pytest.raises(UserError, match=rf"config\.{key}: {seed} is not in"):
            recipes.validate(changed)


def test_19_the_largest_seed_trains(config, evaluated, tmp_path):
    config.seed = 2**63 - 1
    config.train.steps = 1
    loop.train(config, tmp_path / "run")
    assert runs.last_step(tmp_path / "run") == 1


def test_20_a_scale_that_leaves_no_example_is_named(tmp_path):
    with pytest.raises(UserError, match=r"config\.data\.scale: 1e-09 is so small that no example is left"):
        builder.prepare("addition", "retune", scale=1e-9, seed=0, data_dir=tmp_path, progress=False)


# 21 - 24: data, tasks, threads, files


def cut(path):
    path.write_bytes(path.read_bytes()[:2000])


def overwrite(path):
    path.write_bytes(b"x" * path.stat().st_size)


def empty(path):
    for file in path.parent.iterdir():
        file.unlink()


@pytest.mark.parametrize("harm", [cut, overwrite, Path.unlink, empty])
def test_21_a_damaged_data_set_is_named_with_the_way_out(harm, made, config, evaluated, tmp_path):
    config.data.dir = str(shutil.copytree(made / "data", tmp_path / "data"))
    harm(next((tmp_path / "data").rglob("*train*")))
    with pytest.raises(UserError, match=r"data set .*parity-retune-0\.001-seed0.* is damaged .* delete this folder"):
        loop.train(config, tmp_path / "run")
    shutil.rmtree(next((tmp_path / "data").rglob("1.0.0")))
    assert len(loop.source(config)) > 0


class Endless(tasks.Task):
    """A task that does not shrink its problem."""

    name = "endless"

    def __init__(self, following):
        self.following = following

    def prompt(self, number):
        return f"Again {number}"

    def parse(self, text):
        return int(text.removeprefix("Again "))

    def solve(self, number):
        for following in self.following(number):
            yield tasks.Call(self.prompt(following))
        return tasks.Answer(1)


def test_22_a_solver_that_does_not_end_is_stopped_with_its_prompt(monkeypatch):
    with pytest.raises(UserError, match="endless: the solver calls itself in a circle, at 'Again 1'"):
        tasks.trace(Endless(lambda number: [3 - number]), 1)
    with pytest.raises(UserError, match="endless: too long, or without end: 5000 callers wait, now for 'Again 5001'"):
        tasks.trace(Endless(lambda number: [number + 1]), 0)
    monkeypatch.setattr(tasks.task, "MOST_CALLS", 50)
    with pytest.raises(UserError, match="without end: it has made 50 calls"):
        tasks.trace(Endless(lambda number: [] if number else range(1, 1000)), 0)


def test_23_training_works_in_another_thread(config, evaluated, tmp_path):
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


def test_24_a_write_that_fails_leaves_the_file_before(tmp_path):
    file = tmp_path / "tokenizer.model"
    file.write_text("before")
    with pytest.raises(RuntimeError):
        tokenizer.train(["too little text"], file, 512)
    with pytest.raises(OSError), disk.replacing(file) as fresh:
        fresh.write_text("half")
        raise OSError(errno.ENOSPC, "no space")
    assert file.read_text() == "before" and [path.name for path in tmp_path.iterdir()] == ["tokenizer.model"]


# 25 - 35: messages and smaller things


def test_25_a_learning_rate_that_jumps_is_said(workdir, config, evaluated, capfd):
    config.train.update({"steps": 4, "schedule": "cosine", "warmup": 0})
    other = workdir.parent / "cosine"
    loop.train(config, other)
    capfd.readouterr()
    config.train.steps = 5
    loop.train(config, other)
    said = [line for line in capfd.readouterr().err.splitlines() if "learning rate" in line]
    assert len(said) == 1 and "train.steps was 4 and is 5 now" in said[0] and "schedule=cosine" in said[0]
    assert optimizer.jump(config.train, config.train, 3) is None


def test_26_a_full_disk_is_an_error_of_its_own_and_the_last_checkpoint_is_good(workdir, config, evaluated):
    config.train.steps = 4
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with contextlib.ExitStack() as restored:
        restored.callback(resource.setrlimit, resource.RLIMIT_FSIZE, before)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))  # bytes a file: all but the arrays fit
        with pytest.raises(disk.DiskError, match=r"cannot be written: File too large; the last checkpoint is of step 2"):
            loop.train(config, workdir)
    loop.train(config, workdir)
    assert runs.last_step(workdir) == 4


def test_30_a_recipe_may_have_arguments_of_its_own_in_a_study():
    config = runner.configuration(f"{ROOT}/configs/parity.py:data=paper", "method=baseline", [], quick=False)
    assert (config.method, config.data.scale) == ("baseline", 1.0)


def test_31_numbers_that_train_nothing_are_refused(config):
    for key, value in {"lora.alpha": 0.0, "train.clip": float("inf"), "train.weight_decay": float("-inf")}.items():
        changed = recipes.ConfigDict(config.to_dict())
        changed.update_from_flattened_dict({key: value})
        with pytest.raises(UserError, match=rf"config\.{key}"):
            recipes.validate(changed)


def test_32_sums_may_have_more_digits_than_a_list_that_a_user_writes():
    task, longest = tasks.get("dynamic_programming"), "9" * 18
    problem = task.parse(f"[{longest}, 1, {longest}]")
    assert task.written(problem, "retune").value == "[1, 2, 1]"
    with pytest.raises(UserError, match="an item has 19 digits, and 18 are the most"):
        task.parse(f"[{longest}9, 1]")


def test_33_a_relative_base_means_the_same_from_any_folder(made, config, evaluated, tmp_path, monkeypatch):
    config.base = "base"
    monkeypatch.chdir(made)
    loop.train(config, tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    assert config_file.read_run(tmp_path / "run").base == str(made / "base")
    runs.load_model(tmp_path / "run", sharding.make_mesh(-1, 1, 1))


def test_34_a_system_without_file_locks_is_told_which_have_them(monkeypatch, tmp_path):
    monkeypatch.setattr(disk, "fcntl", None)
    with pytest.raises(UserError, match="runs on Linux and macOS"), disk.locked(tmp_path / "lock", wait=True):
        pass


def test_34_many_processes_take_turns_at_a_lock(tmp_path):
    """Each removes the lock's file as it lets go, while others wait for it or come anew."""
    code = "import sys; from pathlib import Path; from retune_jax import disk\n"
    code += "folder = Path(sys.argv[1]); total = folder / 'total'\n"
    code += "for _ in range(200):\n    with disk.locked(folder / '.lock', wait=True):\n"
    code += "        total.write_text(str(int(total.read_text()) + 1))"
    (tmp_path / "total").write_text("0")
    with contextlib.ExitStack() as running:
        processes = [running.enter_context(python(code, tmp_path)) for _ in range(6)]
        assert [process.wait() for process in processes] == [0] * 6
    assert (tmp_path / "total").read_text() == "1200"


def test_35_grading_compares_text_exactly_and_the_docs_say_so():
    task = tasks.get("dynamic_programming")
    problem = task.parse("[3, 2]")
    assert task.grade(problem, "retune", " [1, 2]") and not task.grade(problem, "retune", " [1,2]")
    assert "`[1,2]` is wrong where `[1, 2]` is right" in (ROOT / "docs" / "concepts.md").read_text()


# Whole commands: what only a process shows


def test_9_15_16_evaluation_takes_overrides_longer_problems_64_bits_and_any_devices(workdir):
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


def test_27_a_platform_that_is_not_there_is_named(tmp_path):
    command = [sys.executable, "-m", "retune_jax.train", "--config=configs/parity.py", f"--workdir={tmp_path / 'run'}"]
    env = dict(os.environ, JAX_PLATFORMS="cuda")
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "JAX_PLATFORMS=cuda" in done.stderr
    assert not (tmp_path / "run").exists()


def test_28_a_reader_that_has_seen_enough_is_no_error():
    problem = "1" * 300 + " + 1"
    command = f"{sys.executable} -m retune_jax.tasks --task=addition --method=retune --problem='{problem}' | head -1"
    done = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.count("\n") == 1 and done.stderr == ""


def test_a_stop_before_there_is_anything_to_save_ends_at_once_and_a_second_one_too():
    code = "import time\nfrom retune_jax.training.stop import StopRequests\nwith StopRequests() as stop:\n"
    with python(code + "    print('in', flush=True); time.sleep(60)") as process:
        assert process.stdout.readline() == "in\n"
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=20)[1] == "\nretune_jax: terminated\n" and process.returncode == 143
    code += "    stop.unsaved = True; print('in', flush=True)\n    while not stop.requested: time.sleep(0.01)\n"
    with python(code + "    print(stop.requested.name, flush=True); time.sleep(60)") as process:
        assert process.stdout.readline() == "in\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "SIGTERM\n"
        process.send_signal(signal.SIGTERM)  # again, as schedulers do
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=20)[1] == "\nretune_jax: interrupted\n" and process.returncode == 130
    assert stop.StopRequests().requested is None
