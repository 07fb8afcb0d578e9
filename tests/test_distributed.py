"""Many processes do what one does, stop together, and say so when one is missing, mistaken or dead."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from launched import ROOT, Launched, lines, write_recipe

from retune_jax.distributed import cluster
from retune_jax.distributed.cluster import Place
from retune_jax.distributed.roll_call import RollCall
from retune_jax.errors import UserError


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return write_recipe(tmp_path_factory.mktemp("small"))


def train(small, workdir, **changes):
    settings = [f"--config.{key.replace('__', '.')}={value}" for key, value in changes.items()]
    return ["retune_jax.train", f"--config={small}", f"--workdir={workdir}", *settings]


def losses(workdir):
    return [json.loads(line)["loss"] for line in (workdir / "metrics.jsonl").read_text().splitlines()]


VOLATILE = ("facts", "command", "config")  # how much work, and where


def evaluation(workdir):
    """What was asked and answered: the rows, and every text; how much work it took differs between layouts."""
    report, samples = (json.loads((workdir / name).read_text()) for name in ("eval.json", "samples.json"))
    return report["rows"], {name: value for name, value in samples.items() if name not in VOLATILE}


# One run, whatever it is spread over


@pytest.mark.slow
def test_every_layout_gives_the_losses_and_the_evaluation_of_one_device(small, tmp_path):
    layouts = {"one": (1, 1, {}), "data": (1, 4, {}), "fsdp": (1, 4, {"mesh__fsdp": 2}), "many": (2, 2, {})}
    layouts["tensor"] = (1, 4, {"mesh__fsdp": 2, "mesh__tensor": 2})
    with contextlib.ExitStack() as running:
        runs = {}
        for name, (processes, devices, mesh) in layouts.items():
            command = train(small, tmp_path / name, **mesh)
            launched = Launched(command, tmp_path / f"{name}-logs", processes=processes, devices=devices)
            runs[name] = running.enter_context(launched)
        for run in runs.values():
            assert set(run.wait(200)) == {0}, run.said()
    for name in layouts:
        np.testing.assert_allclose(losses(tmp_path / name), losses(tmp_path / "one"), atol=1e-5, rtol=0)
        assert evaluation(tmp_path / name) == evaluation(tmp_path / "one")
    assert sorted(path.name for path in (tmp_path / "many").iterdir()) == sorted(
        path.name for path in (tmp_path / "one").iterdir()
    ), "one process writes"


# Ending together


@pytest.mark.slow
def test_a_signal_to_any_process_stops_all_after_the_same_step_and_another_layout_goes_on(small, tmp_path):
    workdir, metrics = tmp_path / "run", tmp_path / "run" / "metrics.jsonl"
    command = train(small, workdir, train__steps=400)
    with Launched(command, tmp_path / "first", processes=2, devices=2) as run:
        run.until(lambda: lines(metrics) > 2)
        run.signal(signal.SIGTERM, 1)
        assert run.wait(30) == [143, 143]
        assert "stopped after step" in run.said()[0] and "stopped after" not in run.said()[1]
    stopped = lines(metrics)
    assert (workdir / "checkpoints" / str(stopped)).is_dir()
    with Launched([*command, "--config.mesh.tensor=2"], tmp_path / "second", processes=1, devices=4) as run:
        run.until(lambda: lines(metrics) > stopped + 2)
        run.signal(signal.SIGINT, 0)
        assert run.wait(30) == [130]
        assert f"goes on after step {stopped} of 400" in run.said()[0]


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_dead_process_ends_the_others_at_once_with_a_line(victim, small, tmp_path):
    workdir = tmp_path / "run"
    with Launched(train(small, workdir, train__steps=400), tmp_path / "logs", processes=2, devices=1) as run:
        run.until(lambda: lines(workdir / "metrics.jsonl") > 2)
        run.signal(signal.SIGKILL, victim)
        killed = time.monotonic()
        codes = run.wait(20)
        assert time.monotonic() - killed < 10
        assert codes[victim] == -signal.SIGKILL and codes[1 - victim] != 0
        assert f"process {victim} (" in run.said()[1 - victim] and "is gone; this process stops too" in run.said()[1 - victim]


def test_a_mistake_is_told_by_every_process_and_nothing_is_written(small, tmp_path):
    with Launched(train(small, tmp_path / "run", mesh__fsdp=3), tmp_path / "logs", processes=2, devices=1) as run:
        assert run.wait() == [2, 2]
        assert all("fsdp=3, tensor=1) does not fit 2 devices" in said and "Traceback" not in said for said in run.said())
    assert not (tmp_path / "run").exists()


# Coming together


def together(*places, wait=20):
    """Roll calls made side by side: each one's RollCall, or its mistake."""
    results = [None] * len(places)

    def come(index):
        try:
            results[index] = RollCall(places[index], wait)
        except UserError as error:
            results[index] = str(error)

    threads = [threading.Thread(target=come, args=(index,)) for index in range(len(places))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return results


@pytest.fixture
def address():
    import socket

    with socket.create_server(("", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


def test_words_come_back_in_the_order_of_the_processes(address):
    calls = together(*(Place(address, 3, number, None) for number in (2, 0, 1)))
    said = {}
    for _ in range(3):  # one thread each, as gather waits for the others
        threads = [
            threading.Thread(
                target=lambda call=call: said.setdefault(call.place.process, []).append(call.gather(call.place.process * 7))
            )
            for call in calls
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    assert said == {number: [[0, 7, 14]] * 3 for number in range(3)}
    assert len({call.coordinator for call in calls}) == 1
    for call in sorted(calls, key=lambda call: -call.place.process):
        call.leave(None)


def test_a_process_that_does_not_come_is_named_within_the_wait(address):
    start = time.monotonic()
    zero, two = together(Place(address, 3, 0, None), Place(address, 3, 2, None), wait=1)
    assert zero == f"process 1 of 3 has not come to {address} within 1 s"
    assert two == "process 1 of 3 has not come within 1 s"
    assert time.monotonic() - start < 8


def test_a_coordinator_that_cannot_be_reached_is_named_within_the_wait(address):
    start = time.monotonic()
    (mistake,) = together(Place(address, 2, 1, None), wait=1)
    assert mistake == f"process 1 cannot reach process 0 at {address} within 1 s: Connection refused"
    assert time.monotonic() - start < 8


def test_processes_that_were_told_different_numbers_are_refused(address):
    mistakes = together(Place(address, 2, 0, None), Place(address, 3, 1, None))
    assert all("was told of 3 processes, process 0 of 2" in mistake for mistake in mistakes)


def test_processes_with_different_commands_are_refused(address, monkeypatch):
    from retune_jax.distributed import roll_call

    commands = iter(["a", "b"])
    monkeypatch.setattr(roll_call, "_command", lambda: next(commands))
    mistakes = together(Place(address, 2, 0, None), Place(address, 2, 1, None))
    assert all("started with another command" in mistake for mistake in mistakes)


def test_two_of_the_same_number_are_refused(address):
    mistakes = together(*(Place(address, 3, number, None) for number in (0, 1, 1)))
    assert sum("there are two processes 1" in mistake for mistake in mistakes) >= 2


# Finding one's place


@pytest.fixture
def bare(monkeypatch):
    for name in list(os.environ):
        if name.startswith(("SLURM", "OMPI", "JAX_COORD", "JAX_NUM", "JAX_PROCESS_ID", "KUBERNETES", "CUDA_VISIBLE", "TPU")):
            monkeypatch.delenv(name)
    return monkeypatch


SLURM = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_NODELIST": "n[3-4],m1",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
}
OPEN_MPI = {
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911",
    "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
}


@pytest.mark.parametrize(
    "environment, place",
    [
        ({}, None),
        ({"JAX_COORDINATOR_ADDRESS": "h:1", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1"}, Place("h:1", 2, 1, None)),
        (SLURM, Place("n3:61447", 4, 3, [1])),
        (SLURM | {"SLURM_STEP_TASKS_PER_NODE": "1(x4)"}, Place("n3:61447", 4, 3, None)),  # all accelerators of its node
        (SLURM | {"CUDA_VISIBLE_DEVICES": "0"}, Place("n3:61447", 4, 3, None)),  # sees its own only
        (SLURM | {"SLURM_NTASKS": "1", "SLURM_PROCID": "0"}, None),
        (OPEN_MPI, Place("10.96.0.1:62624", 2, 1, [1])),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, None),  # a lone pod
    ],
    ids=["alone", "variables", "slurm", "slurm-task-a-node", "slurm-gpu-a-task", "slurm-one-task", "open-mpi", "pod"],
)
def test_a_place_is_found_in_the_environment(environment, place, bare):
    for name, value in environment.items():
        bare.setenv(name, value)
    assert cluster.find(None, None, None) == place


def test_flags_come_before_the_environment(bare):
    for name, value in SLURM.items():
        bare.setenv(name, value)
    assert cluster.find("h:1", 2, 0) == Place("h:1", 2, 0, None)


@pytest.mark.parametrize(
    "flags, words",
    [
        (("h:1", None, 0), "--coordinator, --process without --processes"),
        (("h", 2, 0), "'h' is not HOST:PORT"),
        (("h:1", 2, 2), r"--process: 2 is not in 0\.\.1"),
    ],
)
def test_half_a_place_is_refused(flags, words, bare):
    with pytest.raises(UserError, match=words):
        cluster.find(*flags)


def test_a_silent_stranger_on_the_port_does_not_stop_the_start(address):
    """Health checks and port scans connect, and go."""
    import socket

    host, port = address.split(":")
    zero = []
    thread = threading.Thread(target=lambda: zero.extend(together(Place(address, 2, 0, None))))
    thread.start()
    time.sleep(0.2)
    with socket.create_connection((host, int(port))) as stranger:
        stranger.sendall(b"GET / HTTP/1.0\r\n\r\n")
    (one,) = together(Place(address, 2, 1, None))
    thread.join(30)
    assert isinstance(one, RollCall) and isinstance(zero[0], RollCall)
    one.leave(None)
    zero[0].leave(None)


def test_help_needs_no_cluster():
    answer = subprocess.run([sys.executable, "-m", "retune_jax.train", "--help"], cwd=ROOT, capture_output=True, text=True)
    assert answer.returncode == 0 and "--coordinator" in answer.stdout
