"""A study makes its runs once, goes on where it was stopped, and tells of them truly."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from retune_jax import cli, study
from retune_jax import config as recipes
from retune_jax.errors import UserError
from retune_jax.study import Run, Study, perform, row

RECIPE = str(Path(__file__).parents[1] / "configs" / "parity.py")
REPORT = {
    "task": "parity",
    "method": "retune",
    "trained_lengths": [1, 2],
    "rows": [{"length": n, "correct": c, "problems": 10} for n, c in ((1, 10), (2, 9), (3, 4), (5, 1))],
}
RUNS = [("retune", 1), ("retune", 9), ("baseline", 1), ("baseline", 9)]
SMALL = Study(
    "Does it work?",
    "problems a length",
    tuple(
        Run(method, count, f"method={method}", (f"--config.seed={count}",))
        for method in ("retune", "baseline")
        for count in (1, 9)
    ),
)


@pytest.fixture
def commands(monkeypatch):
    """The commands of the runs made, and the exit codes of those to come (0 where none is left), which then report."""
    seen = SimpleNamespace(made=[], codes=[])

    def call(command):
        seen.made.append(command)
        folder = next(flag.partition("=")[2] for flag in command if flag.startswith("--workdir="))
        code = seen.codes.pop(0) if seen.codes else 0
        if not code:
            (path := study.Path(folder)).mkdir(parents=True, exist_ok=True)
            (path / "eval.json").write_text(json.dumps(REPORT))
            given = next(flag.partition("=")[2] for flag in command if flag.startswith("--config="))
            config = cli.configuration(given, [flag for flag in command if flag.startswith("--config.")])
            recipes.write(config, path / "config.json")
        return code

    monkeypatch.setattr(study, "call", call)
    return seen


def test_a_line_pools_the_trained_lengths_and_the_longer_ones():
    found = row(Run("retune", 3, ""), REPORT)
    assert (found["trained"]["correct"], found["trained"]["problems"], found["trained"]["accuracy"]) == (19, 20, 0.95)
    assert (found["longer"]["correct"], found["longer"]["problems"]) == (5, 20)
    assert found["longer"]["low"] < 0.25 < found["longer"]["high"]


def test_every_run_has_its_own_flags_and_those_of_all(commands, tmp_path, capsys):
    perform(SMALL, RECIPE, tmp_path, ["--config.train.steps=3"])
    assert [command[3:] for command in commands.made[:2]] == [
        [f"--config={RECIPE}:method=retune", f"--workdir={tmp_path}/retune-{n}", f"--config.seed={n}", "--config.train.steps=3"]
        for n in (1, 9)
    ]
    assert commands.made[0][:3] == [sys.executable, "-m", "retune_jax.train"]
    report = json.loads((tmp_path / "study.json").read_text())
    assert [(found["series"], found["x"]) for found in report["rows"]] == [
        (m, n) for m in ("retune", "baseline") for n in (1, 9)
    ]
    text = (tmp_path / "study.md").read_text()
    assert "Does it work?" in text and "| retune | 9 | 0.950 (" in text
    assert text.split("\n\n")[1].strip() == capsys.readouterr().out.strip()
    assert (tmp_path / "study.png").read_bytes().startswith(b"\x89PNG")


def test_a_stopped_study_goes_on_and_a_finished_one_runs_nothing(commands, tmp_path):
    commands.codes = [0, 0, 130]
    with pytest.raises(SystemExit) as stopped:
        perform(SMALL, RECIPE, tmp_path, [])
    assert stopped.value.code == 130 and not (tmp_path / "study.json").exists()
    perform(SMALL, RECIPE, tmp_path, [])
    assert len(commands.made) == 3 + 2
    perform(SMALL, RECIPE, tmp_path, [])
    assert len(commands.made) == 3 + 2


def test_a_run_of_another_recipe_does_not_count(commands, tmp_path):
    perform(SMALL, RECIPE, tmp_path, [])
    perform(SMALL, RECIPE, tmp_path, ["--config.train.log_every=7"])
    assert len(commands.made) == 4, "how often it says something is not what it found"
    perform(SMALL, RECIPE, tmp_path, ["--config.train.learning_rate=0.5"])
    assert len(commands.made) == 8, "train itself refuses the folder, by name"
    perform(SMALL, f"{RECIPE}:data=paper", tmp_path, ["--config.train.learning_rate=0.5"])
    assert len(commands.made) == 12 and f"--config={RECIPE}:data=paper,method=baseline" in commands.made[-1]


@pytest.mark.parametrize(
    "arguments, words", [([], "which study?"), (["sampling"], "'sampling'; there are"), (["resampling", "x"], "'x'")]
)
def test_a_mistake_is_named(arguments, words):
    with pytest.raises(UserError, match=words):
        study.main(arguments)


def test_a_mistake_in_the_recipe_ends_the_study_with_its_code(tmp_path):
    command = [sys.executable, "-m", "retune_jax.study", "resampling", "--recipe=none.py", f"--workdir={tmp_path}/s"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 2
    assert "No such file" in ended.stderr and "Traceback" not in ended.stderr
