"""Accuracy is counted as it is told, a mistake is found where it was made, and evaluate.py writes all of it or nothing."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import matplotlib.image
import numpy as np
import pytest
import small_run
from absl import flags
from absl.testing import flagsaver
from hypothesis import given
from hypothesis import strategies as st
from scripted import ScriptedModel, bits_tree, script_of

from retune_jax import config as recipes
from retune_jax import config_file, evaluate, tasks, tokenizer
from retune_jax.checkpoints import runs
from retune_jax.errors import UserError
from retune_jax.evaluation import accuracy, figure, run
from retune_jax.protocol import STATUSES, Context

ROOT = Path(__file__).parents[1]
WRITTEN = ["accuracy.png", "eval.json", "report.html", "samples.json"]
ADDITION, DP, PARITY = (tasks.get(name) for name in ("addition", "dynamic_programming", "parity"))

# Intervals


@pytest.mark.parametrize(
    "correct, problems, low, high",
    [  # Newcombe, 1998, table I, method 3; then the ends
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (20, 20, 0.8389, 1.0000),
        (0, 1, 0.0000, 0.7935),
    ],
)
def test_intervals_are_wilsons(correct, problems, low, high):
    np.testing.assert_allclose(accuracy.wilson(correct, problems), (low, high), atol=5e-5)


@given(st.integers(1, 5000).flatmap(lambda problems: st.tuples(st.integers(0, problems), st.just(problems))))
def test_an_interval_holds_the_accuracy_and_stays_within_0_and_1(counts):
    low, high = accuracy.wilson(*counts)
    assert 0 <= low <= counts[0] / counts[1] <= high <= 1
    assert (low == 0) == (counts[0] == 0) and (high == 1) == (counts[0] == counts[1])


# Problems


def test_problems_are_the_same_for_every_run_and_a_larger_evaluation_asks_them_first():
    asked = accuracy.problems(PARITY, [9, 4], 5)
    assert [length for length, _ in asked] == [9] * 5 + [4] * 5
    assert all(len(problem) == length for length, problem in asked)
    assert asked == accuracy.problems(PARITY, [9, 4], 5)
    assert asked[5:] == accuracy.problems(PARITY, [4], 8)[:5]
    assert len({problem for _, problem in accuracy.problems(PARITY, [30], 50)}) == 50


# eval.json, the table and the picture


def result(tree, status="ok"):
    return SimpleNamespace(status=status, text=tree.segments[-1].text if tree.segments else "", context=tree)


@pytest.fixture
def report():
    asked = [(3, (1, 0, 1)), (2, (1, 1)), (3, (0, 0, 1)), (2, (0, 1)), (2, (1, 0))]
    results = [
        result(bits_tree((1, 0, 1))),
        result(bits_tree((1, 1), at1=0)),
        result(Context(PARITY.prompt((0, 0, 1)), (), "max_depth"), "max_depth"),
        result(bits_tree((0, 1), at1=0, at2=1)),
        result(bits_tree((1, 0))),
    ]
    return {
        "task": "parity",
        "method": "retune",
        "trained_lengths": [1, 2],
        "rows": accuracy.rows(accuracy.judged(PARITY, "retune", asked, results)),
    }


def test_rows_count_what_happened(report):
    short, long = report["rows"]
    interval = dict(zip(("low", "high"), accuracy.wilson(2, 3)))
    counts = {"statuses": {"ok": 3}, "errors": {"wrong_computation": 1, "repaired": 1}}
    assert short == {"length": 2, "problems": 3, "correct": 2, "accuracy": 2 / 3, **interval, **counts}
    interval = dict(zip(("low", "high"), accuracy.wilson(1, 2)))
    counts = {"statuses": {"ok": 1, "max_depth": 1}, "errors": {"max_depth": 1}}
    assert long == {"length": 3, "problems": 2, "correct": 1, "accuracy": 0.5, **interval, **counts}


def test_an_answer_of_a_problem_that_ended_early_does_not_count():
    right = PARITY.written((1, 0), "retune")
    (row,) = accuracy.rows(accuracy.judged(PARITY, "retune", [(2, (1, 0))], [result(right, "token_budget")]))
    assert row["correct"] == 0 and row["errors"] == {"token_budget": 1}


def test_the_table_says_all_of_it_and_marks_the_trained_lengths(report):
    title, short, long = accuracy.table(report).split("\n")
    assert title.split() == ["length", "problems", "accuracy", "95%", "interval", "statuses;", "errors"]
    assert short.split(maxsplit=6) == ["2*", "3", "0.667", "0.208", "-", "0.939", "ok 3; repaired 1, wrong_computation 1"]
    assert long.split(maxsplit=6) == ["3", "2", "0.500", "0.095", "-", "0.905", "max_depth 1, ok 1"]
    assert short.index("0.667") == long.index("0.500")


def test_the_picture_shows_every_report(report, tmp_path):
    other = {**report, "method": "scratchpad", "rows": [{**row, "accuracy": 0.1} for row in report["rows"]]}
    unknown = {**other, "method": "another"}
    pictures = []
    for number, shown in enumerate(([report], [report, other], [report, other, unknown])):
        figure.draw(shown, tmp_path / f"{number}.png")
        pictures.append(matplotlib.image.imread(tmp_path / f"{number}.png"))
    assert pictures[0].shape[0] > 300 and pictures[0].shape[1] > 600
    inks = [(picture[..., :3].min(-1) < 0.9).mean() for picture in pictures]
    assert 0.005 < inks[0] < inks[1] < inks[2] < 0.5


def test_each_task_has_a_panel_of_its_own(report, tmp_path):
    other = {**report, "task": "addition"}
    for number, shown in enumerate(([report], [report, other], [report, other, {**report, "task": "dynamic_programming"}])):
        figure.draw(shown, tmp_path / f"{number}.png")
    widths = [matplotlib.image.imread(tmp_path / f"{number}.png").shape[1] for number in range(3)]
    assert widths[0] < widths[1] < widths[2]


def test_one_picture_of_several_runs_is_a_command(report, tmp_path):
    for method in ("retune", "baseline"):
        (tmp_path / method).mkdir()
        (tmp_path / method / "eval.json").write_text(json.dumps({**report, "method": method}))

    def run(workdirs, output):
        module = [sys.executable, "-m", "retune_jax.evaluation.figure"]
        return subprocess.run(
            [*module, f"--workdirs={workdirs}", f"--output={output}"], cwd=ROOT, capture_output=True, text=True
        )

    both = f"{tmp_path / 'retune'},{tmp_path / 'baseline'}"
    done = run(both, tmp_path / "both.png")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert matplotlib.image.imread(tmp_path / "both.png").shape[0] > 300
    for workdirs, output in ((tmp_path / "nowhere", tmp_path / "picture.png"), (both, tmp_path / "no" / "picture.png")):
        done = run(workdirs, output)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert done.stderr.startswith("retune_jax: error: ")
    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["both.png"]


# The whole


@pytest.mark.parametrize("method", ["retune", "scratchpad"])
def test_a_model_that_writes_the_truth_is_right_at_every_length(method, tmp_path, capsys):
    config = small_run.settle(recipes.recipe(f"method={method}", task="parity"))
    model = tokenizer.tiny()
    asked = accuracy.problems(PARITY, [1, 2, 3], 2)
    trees = {problem: PARITY.written(problem, method) for _, problem in asked}
    script = script_of(model, trees.values(), config.decode.opening)
    writer = ScriptedModel(script, model.vocab_size, model.encode("0")[0])
    report = run.evaluate(workdir=tmp_path, config=config, model=writer, tokenizer=model)
    assert json.loads((tmp_path / "eval.json").read_text()) == report
    assert [(row["length"], row["correct"], row["errors"]) for row in report["rows"]] == [(n, 2, {}) for n in (1, 2, 3)]
    assert capsys.readouterr().out == accuracy.table(report) + "\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == WRITTEN


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a run."""
    return small_run.make(tmp_path_factory.mktemp("trained"))


def command(**values):
    """Runs evaluate.py's main in this process with flags of these values."""
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
    with flagsaver.flagsaver(**values):
        evaluate.main([])


def files(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


ROW = {
    "length": int,
    "problems": int,
    "correct": int,
    "accuracy": float,
    "low": float,
    "high": float,
    "statuses": dict,
    "errors": dict,
}


def test_the_command_writes_the_results_of_a_run_where_it_is_told(trained, tmp_path, capsys):
    before = files(trained)
    command(workdir=str(trained), lengths="2,4:5", problems_per_length=3, output=str(tmp_path / "new" / "here"))
    assert files(trained) == before
    assert sorted(path.name for path in (tmp_path / "new" / "here").iterdir()) == WRITTEN
    report = json.loads((tmp_path / "new" / "here" / "eval.json").read_text())
    assert list(report) == ["task", "method", "trained_lengths", "settings", "rows", "work"]
    assert (report["task"], report["method"], report["trained_lengths"]) == ("parity", "retune", [1, 21])
    assert [row["length"] for row in report["rows"]] == [2, 4, 5]
    for row in report["rows"]:
        assert {name: type(value) for name, value in row.items()} == ROW and list(row) == list(ROW)
        assert row["problems"] == 3 == sum(row["statuses"].values())
        assert set(row["statuses"]) <= set(STATUSES)
        assert set(row["errors"]) <= {*STATUSES, "wrong_call", "wrong_computation", "repaired"} - {"ok"}
    assert capsys.readouterr().out == accuracy.table(report) + "\n"


def test_the_command_writes_into_the_run_by_default_and_again_the_same(trained):
    command(workdir=str(trained))
    first = (trained / "eval.json").read_bytes()
    assert (trained / "accuracy.png").stat().st_size > 1000
    assert [row["length"] for row in json.loads(first)["rows"]] == [1, 2, 3], "as its config says"
    command(workdir=str(trained))
    assert (trained / "eval.json").read_bytes() == first
    assert runs.read_config(trained).eval.lengths == "1:3", "a run's own configuration stays as it is"


@pytest.mark.parametrize(
    "values, words",
    [
        ({"workdir": "nowhere"}, "nowhere is not the folder of a run"),
        ({"workdir": "empty"}, "empty is not the folder of a run"),
        ({"workdir": "other"}, "another program's"),
        ({"workdir": "list"}, "config.json"),
        ({"workdir": "broken"}, "config.json"),
        ({"workdir": "pretraining"}, "no problems to be evaluated on"),
        ({"workdir": "untrained"}, "has no checkpoint yet"),
        ({"lengths": "0:3"}, "'0:3'"),
        ({"lengths": "5:2"}, "'5:2'"),
        ({"lengths": "many"}, "'many'"),
        ({"lengths": ""}, "lengths"),
        ({"problems_per_length": 0}, "problems_per_length"),
        ({"output": "file"}, "file"),
        ({"output": "file/below"}, "file"),
    ],
    ids=str,
)
def test_a_mistake_is_one_clear_line_and_nothing_is_written(trained, tmp_path, values, words, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("empty", "other", "list", "broken", "pretraining", "untrained"):
        (tmp_path / name).mkdir()
    (tmp_path / "other" / "config.json").write_text('{"model_type": "llama", "hidden_size": 4096}')
    (tmp_path / "list" / "config.json").write_text("[1, 2]")
    (tmp_path / "broken" / "config.json").write_bytes((trained / "config.json").read_bytes()[:100])
    (tmp_path / "untrained" / "config.json").write_bytes((trained / "config.json").read_bytes())
    config_file.write(recipes.pretraining(""), tmp_path / "pretraining" / "config.json")
    (tmp_path / "file").write_text("")
    before = files(tmp_path) | files(trained)
    with pytest.raises(UserError, match=words) as error:
        command(**{"workdir": str(trained), **values})
    assert "\n" not in str(error.value)
    assert files(tmp_path) | files(trained) == before


def test_a_mistake_on_the_command_line_ends_with_code_2(tmp_path):
    command = [sys.executable, "-m", "retune_jax.evaluate", f"--workdir={tmp_path}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("retune_jax: error: ") and done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())
