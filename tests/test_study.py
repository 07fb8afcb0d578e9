"""A study makes its runs once, in one process, goes on where it was stopped, and tells of them truly."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import small_run
from commands import python

from retune_jax import cli, config_file, study, tasks
from retune_jax import config as recipes
from retune_jax.checkpoints import runs
from retune_jax.errors import UserError
from retune_jax.evaluation import run as evaluation
from retune_jax.studies import errors, runner, tables
from retune_jax.studies.plans import STUDIES, Study, _samples, fit
from retune_jax.training import loop

ROOT = Path(__file__).parents[1]
ROWS = [
    {"length": n, "problems": 10, "correct": c, "accuracy": c / 10, "low": 0, "high": 1, "statuses": s, "errors": e}
    for n, c, s, e in (
        (1, 10, {"ok": 10}, {}),
        (2, 9, {"ok": 10}, {"wrong_computation": 1, "repaired": 2}),
        (3, 4, {"ok": 7, "cycle": 3}, {"wrong_call": 2, "wrong_computation": 1, "cycle": 3}),
        (5, 1, {"ok": 1, "bad_call": 9}, {"bad_call": 9}),
    )
]
REPORT = {"task": "parity", "method": "retune", "trained_lengths": [1, 2], "rows": ROWS}
RECIPE = """
from retune_jax.config import recipe

def get_config(arguments=""):
    config = recipe(arguments, task="parity")
    config.model, config.base = "custom", {base!r}
    config.lora.update({{"rank": 2, "targets": "q,down"}})
    config.data.update({{"dir": {data!r}, "scale": 0.0005, "sequence_length": 128, "context_length": 128}})
    config.train.update({{"steps": 4, "rows": 4, "log_every": 1, "warmup": 2}})
    config.eval.update({{"lengths": "1:3", "problems_per_length": 2}})
    return config
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """A config file of small runs of a small model."""
    folder = tmp_path_factory.mktemp("recipe")
    small_run.make(folder)
    path = folder / "recipe.py"
    path.write_text(RECIPE.format(base=str(folder / "base"), data=str(folder / "data")))
    return str(path)


@pytest.fixture
def made(monkeypatch):
    """The (folder, config) of the runs made, which report at once; `ends` are exceptions that the next ones end with."""
    seen = SimpleNamespace(runs=[], ends=[])

    def train(config, workdir):
        runs.check(workdir, config)
        seen.runs.append((workdir, config.copy_and_resolve_references()))
        runs.claim(workdir, config)
        now = time.time()
        lines = [{"step": step, "time": now + step} for step in range(1, config.train.steps + 1)]
        (workdir / runs.METRICS).write_text("".join(json.dumps(line) + "\n" for line in lines))
        if seen.ends and (end := seen.ends.pop(0)):
            raise end
        report = REPORT | {"method": config.method, "settings": evaluation.settings(config)}
        (workdir / runs.EVAL).write_text(json.dumps(report))

    monkeypatch.setattr(loop, "train", train)
    monkeypatch.setitem(
        STUDIES, "small", Study("Does it?", "method", "problems", lambda t: _samples((1, 9)), lambda t: _samples((1,)))
    )
    return seen


def perform(recipe, workdir, *overrides, name="small", quick=False):
    return study.perform(name, recipe, workdir, list(overrides), quick=quick, command="study")


def test_every_run_differs_in_one_thing_and_has_the_flags_of_all(made, recipe, tmp_path):
    text = perform(recipe, tmp_path, "--config.train.steps=3")
    names = [f"{method}-{n}" for method in tasks.METHODS for n in (1, 9)]
    assert [folder.name for folder, _ in made.runs] == names
    for folder, config in made.runs:
        assert f"{config.method}-{config.data.per_length}" == folder.name and config.train.steps == 3
    assert config_file.first_difference(made.runs[0][1], made.runs[1][1]) == ("data.per_length", 1, 9)
    report = json.loads((tmp_path / "study.json").read_text())
    assert [f"{row['series']}-{row['x']}" for row in report["rows"]] == names
    assert (report["task"], report["quick"], report["command"]) == ("parity", False, "study")
    assert "Does it?" in text and "| retune | 9 | 0.950 (" in text and "Each run: 3 steps at rate" in text
    assert (tmp_path / "study.md").read_text() == text + "\n"
    assert (tmp_path / "study.png").read_bytes().startswith(b"\x89PNG")


def test_a_stopped_study_goes_on_and_a_finished_one_runs_nothing(made, recipe, tmp_path):
    made.ends = [None, None, SystemExit(130)]
    with pytest.raises(SystemExit) as stopped:
        perform(recipe, tmp_path)
    assert stopped.value.code == 130 and not (tmp_path / "study.json").exists()
    assert runner.Seconds.read(made.runs[2][0]).evaluation == 0
    perform(recipe, tmp_path)
    assert len(made.runs) == 3 + 4 and made.runs[2][0] == made.runs[3][0]
    perform(recipe, tmp_path)
    assert len(made.runs) == 3 + 4


def test_a_used_folder_is_refused_where_it_holds_other_runs_before_any_is_made(made, recipe, tmp_path):
    perform(recipe, tmp_path)
    (tmp_path / "retune-1" / "eval.json").unlink()
    with pytest.raises(UserError, match=r"retune-1 holds a run with train.learning_rate=0.003, not 0.5"):
        perform(recipe, tmp_path, "--config.train.learning_rate=0.5")
    assert len(made.runs) == 6
    perform(recipe, tmp_path, "--config.eval.problems_per_length=1")  # asks all of them anew
    assert len(made.runs) == 12


def test_a_quick_study_is_smaller_and_says_so(made, recipe, tmp_path):
    text = perform(recipe, tmp_path, "--config.train.log_every=5", quick=True)
    assert "Quick: fewer points" in text and len(made.runs) == 3
    for _, config in made.runs:
        assert (config.train.steps, config.train.rows, config.train.log_every) == (200, 4, 5)
    for name in tasks.names():
        config = runner.configuration(str(ROOT / "configs" / f"{name}.py"), "", [], quick=True)
        longest = tasks.get(name).trained_lengths[1]
        asked = recipes.read_lengths(config.eval.lengths)
        assert 2 <= len(asked) <= 4 and longest in asked and asked[-1] > longest
    for plan in STUDIES.values():
        full, quick = ({run.folder for run in some(tasks.get("parity"))} for some in (plan.runs, plan.quick))
        assert len(full) == len(plan.runs(tasks.get("parity"))) and quick and len(quick) <= len(full)


LEARNING = """
import sys
from pathlib import Path
from absl import flags
from retune_jax.studies import runner
from retune_jax.training import loop
flags.FLAGS([""])
loop.train(runner.configuration(sys.argv[1], "method=retune", [], quick=True), Path(sys.argv[2]))
"""


@pytest.mark.slow
def test_what_a_quick_study_compares_with_has_learned_its_task(tmp_path):
    """By Re-Tuning parity is solved in as few steps as that, so that the others' failing says something."""
    with python(LEARNING, ROOT / "configs" / "parity.py", tmp_path, XLA_FLAGS="") as run:
        _, err = run.communicate()
    assert run.returncode == 0, err
    assert all(row["accuracy"] >= 0.9 for row in json.loads((tmp_path / "eval.json").read_text())["rows"])


def test_the_runs_of_a_study_differ_in_nothing_that_it_does_not_vary():
    def fitted(path, method):
        config, like = (cli.configuration(f"{path}method={name}", []) for name in (method, "retune"))
        fit(config, like, devices=1, quick=False)
        return config, like

    for name in tasks.names():
        retuned, recipe = fitted(f"{ROOT}/configs/{name}.py:", "retune")
        assert retuned.train.steps < recipe.train.steps and retuned.train.rows == recipe.train.rows
        for method in (*tasks.METHODS, *tasks.ABLATIONS):
            config, _ = fitted(f"{ROOT}/configs/{name}.py:", method)
            tokens = [one.train.rows * one.data.sequence_length for one in (config, retuned)]
            assert 0.8 * tokens[1] < tokens[0] <= tokens[1] and config.data.replay == 0
            assert all(config.train[key] == retuned.train[key] for key in retuned.train if key != "rows"), (name, method)
    config, _ = fitted(f"{ROOT}/configs/parity.py:model=llama_7b,", "scratchpad")
    assert (config.train.steps, config.data.scale) == (3900, 1.0), "only the tiny model's runs are made smaller"


def test_the_time_of_a_run_is_told_apart(made, recipe, tmp_path):
    perform(recipe, tmp_path)
    seconds = json.loads((tmp_path / "retune-1" / runner.SECONDS).read_text())
    assert seconds["steps"] == pytest.approx(4, abs=0.1)  # a line a second
    total = runner.Seconds(10, 6, 3) + runner.Seconds(10, 8, 1)
    assert total == runner.Seconds(20, 14, 4) and total.around == pytest.approx(0.1)
    assert runner.Seconds().around == 0


@pytest.mark.slow
def test_a_real_study_asks_every_wording_and_shares_what_it_compiled(recipe, tmp_path):
    text = perform(recipe, tmp_path, "--config.train.steps=2", name="prompts", quick=True)
    wordings = tasks.wording_names(tasks.get("parity"))
    rows = json.loads((tmp_path / "study.json").read_text())["rows"]
    assert [(row["series"], row["x"]) for row in rows] == [(f"trained on {t}", w) for t in ("paper", "all") for w in wordings]
    for trained in ("paper", "all"):
        folder = tmp_path / f"trained-on-{trained}"
        assert runs.read_config(folder).data.wording == trained
        for wording in wordings[1:]:
            report = json.loads((folder / f"asked-{wording}" / "eval.json").read_text())
            assert report["settings"]["eval"]["wording"] == wording
    seconds = [runner.Seconds.read(tmp_path / f"trained-on-{trained}") for trained in ("paper", "all")]
    assert all(0 < s.steps + s.evaluation < s.total for s in seconds)
    assert perform(recipe, tmp_path, "--config.train.steps=2", name="prompts", quick=True) == text, "it ran again"


# Tables


def test_a_line_pools_the_trained_lengths_and_the_longer_ones():
    found = tables.row("retune", 3, REPORT)
    assert (found["trained"]["correct"], found["trained"]["problems"], found["trained"]["accuracy"]) == (19, 20, 0.95)
    assert (found["longer"]["correct"], found["longer"]["problems"], found["longer"]["lengths"]) == (5, 20, [3, 5])
    assert found["longer"]["low"] < 0.25 < found["longer"]["high"]


def test_errors_are_counted_by_length_and_every_problem_once(tmp_path, capsys):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "eval.json").write_text(json.dumps(REPORT))
    text = errors.perform([tmp_path / "one", tmp_path / "two"], tmp_path, command="study errors")
    rows = json.loads((tmp_path / "study.json").read_text())["rows"]
    assert len(rows) == 8 and all(sum(row[name] for name in errors.CLASSES) == 10 for row in rows)
    second, third = rows[1:3]
    assert (second["right"], second["repaired"], second["wrong_computation"]) == (7, 2, 1)
    assert (third["right"], third["wrong_call"], third["wrong_computation"], third["cycle"]) == (4, 2, 1, 3)
    assert "| one | parity | retune | longer | 20 | 5 | 0 | 2 | 1 | 9 | 3 |" in text
    assert (tmp_path / "study.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(UserError, match=r"none.eval.json cannot be read: No such file"):
        errors.read([tmp_path / "none"])


# Mistakes


@pytest.mark.parametrize(
    "arguments, words",
    [([], "which study?"), (["sampling"], "'sampling'; there are sample_efficiency"), (["resampling", "x"], "'x'")],
)
def test_a_mistake_is_named(arguments, words):
    with pytest.raises(UserError, match=words):
        study.main(arguments)


def test_a_mistake_in_the_recipe_is_one_line(recipe):
    for path, words in (
        ("none.py", "No such file"),
        (str(ROOT / "configs" / "base.py"), "makes a base model"),
        (f"{recipe}:data=huge", "data=huge"),
    ):
        with pytest.raises(UserError, match=words):
            runner.configuration(path, "", [], quick=False)
    with pytest.raises(UserError, match="no key 'stepz'"):
        runner.configuration(recipe, "", ["--config.train.stepz=3"], quick=False)
    given = runner.configuration(f"{recipe}:method=scratchpad,data=paper", "method=baseline", [], quick=False)
    assert (given.method, given.base) == ("baseline", str(Path(recipe).parent / "base"))


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["resampling", "--workdir=s"], "give it a recipe"),
        (["errors", "--workdir=s"], "takes evaluated runs"),
        (["errors", "--workdir=s", "--runs=nowhere"], "nowhere/eval.json cannot be read"),
        (["resampling", "--workdir=s", "--recipe=none.py"], "No such file"),
    ],
)
def test_a_wrong_command_is_one_line_and_exit_code_2(arguments, words, tmp_path):
    command = [sys.executable, "-m", "retune_jax.study", *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert ended.returncode == 2 and ended.stderr.count("\n") == 1
    assert words in ended.stderr and not list(tmp_path.iterdir())


def test_a_run_counts_for_a_study_only_when_its_config_says_what_is_asked(recipe, tmp_path):
    workdir = shutil.copytree(Path(recipe).parent / "run", tmp_path / "run")
    (workdir / "eval.json").write_text("{}")
    assert runner.counts(workdir, config_file.read_run(workdir))
    for key, value in {"train.learning_rate": 0.5, "eval.lengths": "1:9", "train.steps": 9, "decode.slots": 3}.items():
        wanted = config_file.read_run(workdir)
        wanted.update_from_flattened_dict({key: value})
        assert not runner.counts(workdir, wanted), key


def test_a_recipe_may_have_arguments_of_its_own_in_a_study():
    config = runner.configuration(f"{ROOT}/configs/parity.py:data=paper", "method=baseline", [], quick=False)
    assert (config.method, config.data.scale) == ("baseline", 1.0)
