import contextlib
import json
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from retune_jax import tasks
from retune_jax.data import builder
from retune_jax.errors import UserError

SMALL = {"scale": 0.002, "seed": 0, "progress": False}

# Writes a data set, says so when half of it is written, and refuses to have imported what is not needed.
WRITER = """
import sys, time
from retune_jax.data import builder
generate = builder.generate
def slow(config, split):
    for index, example in enumerate(generate(config, split)):
        if split == "validation" and index == 20:
            print("half", file=sys.__stdout__, flush=True)
            time.sleep({pause})
        yield example
builder.generate = slow
data = builder.prepare("parity", "retune", scale=0.002, seed=0, data_dir={folder!r}, progress=False)
print(len(data.source("train")), data.source("train")[0]["length"])
assert not {{"tensorflow", "apache_beam", "jax"}} & sys.modules.keys()
"""


@pytest.fixture
def writer():
    """Function: starts a writing process; the fixture ends it."""
    with contextlib.ExitStack() as started:

        def start(folder, *, pause):
            script = WRITER.format(folder=str(folder), pause=pause)
            process = subprocess.Popen([sys.executable, "-W", "error", "-c", script], stdout=subprocess.PIPE, text=True)
            started.enter_context(process)
            started.callback(process.kill)
            return process

        yield start


def records(folder):
    return {path.name: path.read_bytes() for path in Path(folder).rglob("*.array_record*")}


@pytest.fixture(scope="module")
def parity(tmp_path_factory):
    return builder.prepare("parity", "retune", data_dir=tmp_path_factory.mktemp("data"), **SMALL)


@pytest.mark.parametrize(
    ("name", "method"),
    [*((name, "retune") for name in tasks.names()), *(("addition", method) for method in tasks.METHODS[1:])],
)
def test_train_split_is_the_training_set_with_its_repeats(name, method, tmp_path):
    data = builder.prepare(name, method, data_dir=tmp_path, scale=1e-4, seed=3, progress=False)
    task = tasks.get(name)
    expected = Counter()
    for context, copies in task.training_set(method, np.random.default_rng([3, 0]), 1e-4):
        owner, problem = task.reading(context.prompt)
        length = owner.length(problem)
        expected[json.dumps([context.inputs(task.opening(method)), context.outputs(), length])] += copies
    source = data.source("train")
    found = (source[index] for index in range(len(source)))
    assert Counter(json.dumps([e["inputs"], e["outputs"], e["length"]]) for e in found) == expected


def test_in_all_wordings_the_contexts_are_the_same_and_each_copy_is_asked_in_any_of_them(tmp_path):
    task = tasks.get("addition")
    sizes = {"scale": 1e-4, "seed": 3, "progress": False, "data_dir": tmp_path}
    paper, every = (builder.prepare("addition", "retune", wording=name, **sizes) for name in (tasks.PAPER, tasks.ALL))
    assert every.path.parts[-2] == "addition-retune-0.0001-all-seed3" and every.sizes["train"] == paper.sizes["train"]
    variants = {name: tasks.reworded(task, name) for name in tasks.wording_names(task)}
    used = Counter()
    for index in range(paper.sizes["train"]):
        here, there = paper.source("train")[index], every.source("train")[index]
        problem = task.parse(prompt(here))
        name = next(name for name, variant in variants.items() if variant.prompt(problem) == prompt(there))
        assert there["outputs"] == tasks.trace(variants[name], problem).outputs() and there["length"] == here["length"]
        used[name] += 1
    assert len(used) == 4 and min(used.values()) > 0.15 * used.total()


def test_held_out_splits_are_true_solutions_of_each_trained_length(parity):
    task = tasks.get("parity")
    for split, problems in builder.HELD_OUT.items():
        source = parity.source(split)
        examples = [source[index] for index in range(len(source))]
        lengths = [e["length"] for e in examples if len(task.parse(prompt(e))) == e["length"]]
        assert Counter(lengths) == dict.fromkeys(range(1, 22), problems)
        for example in examples[-21:]:  # the tree of the last problem
            assert example["length"] == 21
            context = task.written(task.parse(prompt(example)), "retune")
            assert (context.inputs(), context.outputs()) == (example["inputs"], example["outputs"])


def prompt(example):
    return example["inputs"][0].removesuffix("\nSolution:").strip()


def test_long_held_out_problems_are_not_trained_on(parity):
    trained, held_out = (
        {prompt(source[index]) for index in range(len(source)) if source[index]["length"] == 21}
        for source in (parity.source("train"), parity.source("test"))
    )
    assert not trained & held_out


def test_folder_says_what_it_holds(parity):
    assert parity.path.parts[-3:] == ("retune", "parity-retune-0.002-seed0", "1.0.0")
    metadata = json.loads((parity.path / "metadata.json").read_text())
    assert metadata == {"task": "parity", "method": "retune", "scale": 0.002, "seed": 0}
    assert set(parity.sizes) == {"train", "validation", "test"}


def test_prepared_data_set_is_used_again(parity, monkeypatch):
    monkeypatch.setattr(builder, "generate", None)
    again = builder.prepare("parity", "retune", data_dir=parity.path.parents[2], **SMALL)
    assert again.sizes == parity.sizes
    assert again.source("test")[7] == parity.source("test")[7]


def test_same_seed_gives_the_same_bytes_and_another_seed_another_folder(parity, tmp_path):
    same = builder.prepare("parity", "retune", data_dir=tmp_path, **SMALL)
    other = builder.prepare("parity", "retune", data_dir=tmp_path, **(SMALL | {"seed": 1}))
    assert records(same.path) == records(parity.path)
    assert other.path != same.path
    assert records(other.path) != records(same.path)


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_interrupted_preparation_is_done_again_and_leaves_nothing(end, writer, parity, tmp_path):
    process = writer(tmp_path, pause=60)
    assert process.stdout.readline() == "half\n"
    process.send_signal(end)
    process.communicate(timeout=20)
    assert process.returncode != 0
    folder = tmp_path / "retune" / "parity-retune-0.002-seed0"
    assert not (folder / "1.0.0").exists()
    assert bool(list(folder.glob("incomplete.*"))) == (end != signal.SIGINT)  # not every death can clean up

    data = builder.prepare("parity", "retune", data_dir=tmp_path, **SMALL)
    assert records(data.path) == records(parity.path)
    assert sorted(path.name for path in folder.iterdir()) == ["1.0.0"]


def test_processes_that_need_the_same_data_write_it_once_without_tensorflow(writer, parity, tmp_path):
    both = [writer(tmp_path, pause=1) for _ in range(2)]
    outputs = sorted(process.communicate(timeout=60)[0] for process in both)
    assert [process.returncode for process in both] == [0, 0]
    size = f"{parity.sizes['train']} {parity.source('train')[0]['length']}\n"
    assert outputs == [size, "half\n" + size]


def test_preparation_says_nothing_but_its_progress_bar(tmp_path, capfd):
    builder.prepare("parity", "retune", data_dir=tmp_path / "silent", **SMALL)
    assert capfd.readouterr() == ("", "")
    builder.prepare("parity", "retune", data_dir=tmp_path / "loud", **(SMALL | {"progress": True}))
    out, err = capfd.readouterr()
    assert out == ""
    assert "parity-retune-0.002-seed0 train" in err
    assert "contexts/s" in err


def test_mistakes_are_one_line_and_write_nothing(parity, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="Not a directory"):
        builder.prepare("parity", "retune", data_dir=tmp_path / "file", **SMALL)
    with pytest.raises(UserError, match="no task is called 'party'"):
        builder.prepare("party", "retune", data_dir=tmp_path, **SMALL)
    with pytest.raises(UserError, match="no method is called 'retuned'"):
        builder.prepare("parity", "retuned", data_dir=tmp_path, **SMALL)
    with pytest.raises(UserError, match="has no split 'dev'; it has"):
        parity.source("dev")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_scale_that_leaves_no_example_is_named(tmp_path):
    with pytest.raises(UserError, match=r"config\.data\.scale: 1e-09 is so small that no example is left"):
        builder.prepare("addition", "retune", scale=1e-9, seed=0, data_dir=tmp_path, progress=False)
