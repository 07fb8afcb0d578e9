"""Ctrl-C ends every command in one line and with exit code 130, at whatever moment it comes; starts and mistakes are quick."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import small_run
from commands import ROOT, python, until

from retune_jax.training import stop

TRAIN = "retune_jax.train --config=configs/parity.py --workdir=new --config.data.dir=data --config.data.scale=0.001"
TINY = "--config.train.steps=2000 --config.train.rows=4 --config.train.log_every=1000"
EVALUATE = "retune_jax.evaluate --workdir=run --output=results --lengths=1:3 --problems_per_length=50"
SOLVE = "retune_jax.solve --workdir=run"
STUDY = "retune_jax.study resampling --recipe=configs/parity.py --workdir=studies"
# Seconds after this project's first line. Before it, for some 50 ms, Python starts and answers a Ctrl-C in its own way.
MOMENTS = [
    *((f"{TRAIN} {TINY}", after) for after in (0.0, 0.1, 0.3, 0.6, 1, 1.5, 2.1, 2.8, 3.5, 4.5, 6)),
    *((EVALUATE, after) for after in (0.0, 0.4, 1.2, 2.3, 4)),
    (SOLVE + " --interactive", 0.5),
    (STUDY, 0.3),
    ("retune_jax.tokenizer --output=tokenizer.model", 1.0),
    ("retune_jax.evaluation.skills --problems=1000", 2.0),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("interrupts")
    small_run.make(folder)
    (folder / "configs").symlink_to(ROOT / "configs")
    return folder


def command(words, folder):
    # What is compiled is not kept: compiling is what is to be interrupted.
    env = dict(os.environ, PYTHONPATH=str(ROOT), JAX_ENABLE_COMPILATION_CACHE="0")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-m", *words.split()], cwd=folder, env=env, **pipes)


def begun(process):
    """Waits until the process runs a line of this project: that starts a thread."""
    tasks = Path(f"/proc/{process.pid}/task")
    if not tasks.exists():
        time.sleep(1)
    while tasks.exists() and len(list(tasks.iterdir())) < 2:
        time.sleep(0.005)


def pressed(moment, folder):
    """A command with Ctrl-C at that moment: how it ended, and how many seconds after."""
    words, after = moment
    with command(words.replace("=new", f"=new-{after}"), folder) as process:  # two are pressed at a time
        begun(process)
        time.sleep(after)
        process.send_signal(signal.SIGINT)
        sent = time.monotonic()
        # A prompt that is interrupted by a signal, not by its terminal, waits for a line.
        _, err = process.communicate("\n" if "interactive" in words else None, timeout=60)
        return process.returncode, err, time.monotonic() - sent


@pytest.mark.slow
def test_ctrl_c_at_any_moment_of_any_command_is_one_line_and_130(folder):
    assert len(MOMENTS) == 20
    with ThreadPoolExecutor(2) as pool:
        ends = list(pool.map(lambda moment: pressed(moment, folder), MOMENTS))
    for moment, (code, err, _) in zip(MOMENTS, ends):
        told = [line for line in err.split("\n") if line.strip() and not line.startswith(("step ", "retune_jax: run 1 of"))]
        told = [line for line in told if "sized for" not in line and "contexts" not in line and "%|" not in line]
        assert code == 130, (moment, err)
        assert len(told) == 1 and told[0].startswith(("retune_jax: interrupted", "retune_jax: stopped after step")), (
            moment,
            err,
        )
    assert sorted(seconds for _, _, seconds in ends)[10] < 3


COMPILES = """
import jax, jax.numpy as jnp

def deep(x):
    for step in range(4000):
        x = jnp.sin(x) @ x + step
    return x

lowered = jax.jit(deep).lower(jnp.ones((8, 8)))
print("compiling", flush=True)
lowered.compile()
print("compiled", flush=True)
"""


def test_ctrl_c_in_the_middle_of_a_compile_does_not_wait_for_its_end():
    with python(COMPILES, JAX_ENABLE_COMPILATION_CACHE="0") as process:
        assert process.stdout.readline() == "compiling\n"
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", "\nretune_jax: interrupted\n")


QUICK = "train evaluate solve study sweep report tasks convert tokenizer evaluation.figure evaluation.skills".split()


@pytest.mark.parametrize(
    "words, code",
    [
        *((f"{name} --help", 0) for name in QUICK),
        ("train --config=configs/parity.py --config.train.steps=many", 2),
        ("train --config=configs/parity.py --config.train.steps=0", 2),
        ("evaluate --workdir=nowhere", 2),
        ("evaluate --workdir=run --config.decode.slots=0", 2),
        ("solve --workdir=nowhere 1", 2),
    ],
)
def test_help_and_mistakes_take_less_than_three_seconds(words, code, folder):
    with command(f"retune_jax.{words}", folder) as process:
        out, err = process.stdout.read(), process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == code, err
    assert usage.ru_utime + usage.ru_stime < 3, "of the processor: other work on the machine does not count"
    assert err.count("\n") == (1 if code else 0) and bool(out) == (not code)


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
def test_a_signal_to_a_study_is_passed_on_and_its_run_waited_for(number, tmp_path):
    with python(PARENT, CHILD, tmp_path) as parent:
        until((tmp_path / "ready").exists)
        parent.send_signal(number)
        _, err = parent.communicate(timeout=30)
    assert parent.returncode == 128 + number
    assert (tmp_path / "saved").exists(), "the run had the time that it took"
    assert err.count("\n") == 1 and err.startswith("retune_jax: ")


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


def test_a_reader_that_has_seen_enough_is_no_error():
    problem = "1" * 300 + " + 1"
    command = f"{sys.executable} -m retune_jax.tasks --task=addition --method=retune --problem='{problem}' | head -1"
    done = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.count("\n") == 1 and done.stderr == ""
