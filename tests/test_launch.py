"""The launch scripts do what their opening comments say: on this machine, on a real Slurm, and by Kubernetes' schemas."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml
from launched import ROOT, lines, write_recipe

LAUNCH = ROOT / "launch"
SCRIPTS = [*sorted(LAUNCH.glob("*.sh")), LAUNCH / "slurm.sbatch", *sorted((ROOT / "tests").glob("*.sh"))]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return write_recipe(tmp_path_factory.mktemp("small"))


def environment(devices, **more):
    flags = " ".join(word for word in os.environ["XLA_FLAGS"].split() if "device_count" not in word)
    flags = f"{flags} --xla_force_host_platform_device_count={devices}"
    return os.environ | {"XLA_FLAGS": flags, "PYTHON": sys.executable, "PYTHONPATH": str(ROOT)} | more


# Shell


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed (apt-get install shellcheck)")
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_finds_nothing(script):
    found = subprocess.run(["shellcheck", script], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize("script", [path for path in SCRIPTS if path.parent == LAUNCH], ids=lambda path: path.name)
def test_a_script_without_arguments_shows_its_use_and_exits_with_2(script):
    shown = subprocess.run(["bash", script], capture_output=True, text=True)
    assert shown.returncode == 2
    assert "--config=" in shown.stderr


# local.sh


@pytest.mark.slow
def test_local_trains_on_two_processes_and_passes_signals_and_overrides_on(small, tmp_path):
    workdir = tmp_path / "run"
    command = [LAUNCH / "local.sh", "2", f"--config={small}", f"--workdir={workdir}", "--config.train.steps=40"]
    with (tmp_path / "log").open("w") as log:
        first = subprocess.Popen(command, env=environment(1), cwd=ROOT, stdout=log, stderr=log)
        deadline = time.monotonic() + 90
        while lines(workdir / "metrics.jsonl") < 3:
            assert first.poll() is None and time.monotonic() < deadline, (tmp_path / "log").read_text()
            time.sleep(0.02)
        first.send_signal(signal.SIGTERM)
        assert first.wait(60) == 143, (tmp_path / "log").read_text()
        assert "stopped after step" in (tmp_path / "log").read_text()
        second = subprocess.run(command, env=environment(1), cwd=ROOT, stdout=log, stderr=log, timeout=120)
    assert second.returncode == 0, (tmp_path / "log").read_text()
    assert (workdir / "checkpoints" / "40").is_dir() and (workdir / "eval.json").exists()


def test_local_ends_with_the_code_of_a_mistake(small, tmp_path):
    command = [LAUNCH / "local.sh", "2", f"--config={small}", f"--workdir={tmp_path / 'run'}", "--config.mesh.fsdp=7"]
    answer = subprocess.run(command, env=environment(1), cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert answer.returncode == 2 and "fsdp=7" in answer.stderr


# slurm.sbatch


@pytest.fixture
def slurm(tmp_path):
    needed = ("slurmctld", "slurmd", "munged", "unshare")
    if os.geteuid() or missing_slurm(needed):
        pytest.skip("a Slurm of one's own needs root and `apt-get install slurm-wlm munge`")
    folder = Path("/tmp") / f"retune-slurm-{os.getpid()}"  # short: it holds a socket
    script = ROOT / "tests" / "slurm_cluster.sh"
    up = subprocess.run([script, "up", folder], capture_output=True, text=True)
    try:
        if up.returncode:
            pytest.skip(f"no Slurm can be started here: {up.stderr[-200:]}")
        yield lambda *command: subprocess.run(
            command,
            env=environment(1, SLURM_CONF=str(folder / "slurm.conf")),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
        ).stdout.strip()
    finally:
        subprocess.run([script, "down", folder])
        shutil.rmtree(folder, ignore_errors=True)


def missing_slurm(needed):
    return any(shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin:/sbin") is None for name in needed)


@pytest.mark.slow
def test_slurm_saves_when_preempted_requeues_and_finishes(small, tmp_path, slurm):
    workdir, metrics = tmp_path / "run", tmp_path / "run" / "metrics.jsonl"
    nodes = ("--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=1")
    run = (LAUNCH / "slurm.sbatch", f"--config={small}", f"--workdir={workdir}", "--config.train.steps=150")
    job = slurm("sbatch", "--parsable", *nodes, "--gpus-per-node=0", "--time=10", *run, "--config.train.save_every=1000")

    def log():
        return (tmp_path / f"slurm-{job}.log").read_text()

    def until(true, seconds):
        deadline = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < deadline, log()
            time.sleep(0.2)

    until(lambda: lines(metrics) >= 3, 90)
    slurm("sbatch", "--partition=high", *nodes[:2], "--cpus-per-task=2", "--output=high.log", "--wrap=srun true")
    until(lambda: slurm("squeue", "-h", "-j", job, "-o", "%T") == "PENDING", 60)
    stopped = lines(metrics)
    assert (workdir / "checkpoints" / str(stopped)).is_dir(), "saved at the step at which it was told to stop"
    slurm("scontrol", "update", f"JobId={job}", "StartTime=now")  # it would wait two minutes
    until(lambda: slurm("squeue", "-h", "-j", job, "-o", "%T") in ("", "COMPLETED"), 120)
    assert f"goes on after step {stopped} of 150" in log() and "start 2, on n[0-1]" in log()
    assert [json.loads(line)["step"] for line in metrics.read_text().splitlines()] == list(range(1, 151))
    assert (workdir / "eval.json").exists()


# jobset.yaml


@pytest.fixture(scope="module")
def documents():
    return {document["kind"]: document for document in yaml.safe_load_all((LAUNCH / "jobset.yaml").read_text())}


def test_kubernetes_schemas_accept_every_document(documents):
    assert set(documents) == {"ConfigMap", "PersistentVolumeClaim", "JobSet"}
    for kind in ("ConfigMap", "PersistentVolumeClaim"):
        kubernetes_validate.validate(documents[kind], "1.31", strict=True)
    jsonschema.validate(documents["JobSet"], json.loads((ROOT / "tests" / "data" / "jobset.schema.json").read_text()))
    for job in documents["JobSet"]["spec"]["replicatedJobs"]:
        whole = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": job["name"]}} | job["template"]
        kubernetes_validate.validate(whole, "1.31", strict=True)


def test_the_schemas_would_notice_a_wrong_word(documents):
    schema = json.loads((ROOT / "tests" / "data" / "jobset.schema.json").read_text())
    wrong = json.loads(json.dumps(documents["JobSet"]))
    wrong["spec"]["failurePolicies"] = wrong["spec"].pop("failurePolicy")
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, schema)
    job = documents["JobSet"]["spec"]["replicatedJobs"][0]["template"]
    wrong = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "x"}} | {"spec": job["spec"] | {"paralelism": 2}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, "1.31", strict=True)


def test_the_pods_find_one_another_by_the_names_that_jobset_gives_them(documents):
    jobset = documents["JobSet"]
    (job,) = jobset["spec"]["replicatedJobs"]
    pod = job["template"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    variables = {variable["name"]: variable.get("value") for variable in container["env"]}
    name = jobset["metadata"]["name"]
    host, _, port = variables["JAX_COORDINATOR_ADDRESS"].partition(":")
    assert host == f"{name}-{job['name']}-0-0.{name}" and int(port) == container["ports"][0]["containerPort"]
    count = job["template"]["spec"]
    assert int(variables["JAX_NUM_PROCESSES"]) == count["parallelism"] == count["completions"]
    claims = [volume["persistentVolumeClaim"]["claimName"] for volume in pod["volumes"] if "persistentVolumeClaim" in volume]
    assert claims == [documents["PersistentVolumeClaim"]["metadata"]["name"]]


def test_the_config_in_the_configmap_is_a_recipe(documents, tmp_path):
    import importlib.util

    (tmp_path / "train.py").write_text(documents["ConfigMap"]["data"]["train.py"])
    spec = importlib.util.spec_from_file_location("jobset_train", tmp_path / "train.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.get_config().task == "parity"


# tpu_pod.sh, with a gcloud that writes down what it is told


def test_tpu_pod_creates_runs_and_deletes_whatever_happens(tmp_path):
    gcloud = tmp_path / "gcloud"
    gcloud.write_text(f'#!/bin/bash\nprintf "%s\\n" "$*" >>{tmp_path}/said\n[[ $* != *retune_jax.train* ]] || exit 7\n')
    gcloud.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    command = [LAUNCH / "tpu_pod.sh", "all", "--config=configs/parity.py", "--config.train.steps=3 4"]
    answer = subprocess.run(
        command, env=os.environ | {"PATH": path, "SPOT": "yes", "NAME": "mine"}, capture_output=True, text=True
    )
    said = (tmp_path / "said").read_text().splitlines()
    assert answer.returncode == 7, answer.stderr
    assert said[0].startswith("compute tpus tpu-vm create mine") and said[0].endswith("--spot")
    assert said[-1].startswith("compute tpus tpu-vm delete mine")
    assert any(
        "--worker=all" in line and r"-m retune_jax.train --config=configs/parity.py --config.train.steps=3\ 4" in line
        for line in said
    )
