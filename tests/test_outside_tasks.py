"""A task from anywhere is one like ours: found by its name, checked by the same promises, trained from the same recipe."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from retune_jax import config as recipes
from retune_jax import tasks, tokenizer
from retune_jax.data import builder
from retune_jax.errors import UserError
from retune_jax.tasks import _check, _outside

ROOT = Path(__file__).parents[1]
TUTORIAL = ROOT / "docs" / "tutorial" / "brackets.py"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder on the import path, holding the tutorial's task; what is imported from it is forgotten afterwards."""
    before = set(sys.modules)
    shutil.copy(TUTORIAL, tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    _outside.registered.cache_clear()
    yield tmp_path
    _outside.registered.cache_clear()
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def test_a_task_is_found_by_its_module_and_class(folder):
    task = tasks.get("brackets:Brackets")
    assert task.name == "brackets" and tasks.trace(task, "(()").value == "2" == task.answer("(()")
    config = recipes.recipe("method=scratchpad", task="brackets:Brackets")
    recipes.validate(config)
    assert config.task == "brackets:Brackets" and not config.decode.calls


def test_a_package_registers_its_tasks_under_names_of_their_own(folder):
    (folder / "brackets-1.0.dist-info").mkdir()
    (folder / "brackets-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: brackets\nVersion: 1.0\n")
    points = "[retune_jax.tasks]\nnesting = brackets:Brackets\n"
    (folder / "brackets-1.0.dist-info" / "entry_points.txt").write_text(points)
    assert "nesting" in tasks.names()
    assert type(tasks.get("nesting")) is type(tasks.get("brackets:Brackets"))
    assert tasks.identity("nesting").startswith("nesting-")


def test_its_data_is_made_anew_when_its_source_changes(folder):
    sizes = {"scale": 0.01, "seed": 0, "data_dir": folder / "data", "progress": False}
    first = builder.prepare("brackets:Brackets", "retune", **sizes)
    assert len(first.source("train")) > 20 and "brackets.Brackets-" in str(first.path)
    assert builder.prepare("brackets:Brackets", "retune", **sizes).path == first.path
    with (folder / "brackets.py").open("a") as file:
        file.write("\n# changed\n")
    assert builder.prepare("brackets:Brackets", "retune", **sizes).path != first.path
    assert tasks.identity("parity") == "parity"


@pytest.mark.parametrize(
    "name, words",
    [
        ("parit", "did you mean 'parity'?; one of your own is my_module:MyTask"),
        ("nowhere:Task", "no module nowhere; it has to lie in the current folder or on PYTHONPATH"),
        ("brackets.deeper:Task", "no module brackets.deeper"),
        ("brackets:Bracket", "has no Bracket; did you mean 'Brackets'?"),
        ("brackets:get_config", "not a class derived from"),
        ("brackets:", "written my_module:MyTask"),
        ("bra ckets:Brackets", "written my_module:MyTask"),
        ("/tmp/brackets.py:Brackets", "written my_module:MyTask"),
        ("broken:Task", "broken does not import: SyntaxError"),
        ("leaves:Task", "leaves does not import: SystemExit"),
        ("needs:Task", "needs needs nothing_like_it, which is not installed"),
        ("half:Half", "Half does not say solve(), length(), sample(), answer(), trained_lengths, evaluated_lengths"),
        ("fails:Fails", "Fails() fails: ValueError: no"),
    ],
)
def test_a_name_that_leads_nowhere_is_one_line(folder, name, words):
    (folder / "broken.py").write_text("def f(:\n")
    (folder / "leaves.py").write_text("raise SystemExit(3)\n")
    (folder / "needs.py").write_text("import nothing_like_it\n")
    half = "from retune_jax.tasks import Task\nclass Half(Task):\n    name = 'h'\n    parse = prompt = lambda self, x: x\n"
    (folder / "half.py").write_text(half)
    fails = "from brackets import Brackets\nclass Fails(Brackets):\n    def __init__(self):\n        raise ValueError('no')\n"
    (folder / "fails.py").write_text(fails)
    with pytest.raises(UserError, match=re.escape(words)) as error:
        tasks.get(name)
    assert "\n" not in str(error.value)


# The promises


def reported(task):
    return {promise: (kept, said) for kept, promise, said in _check.report(task, tokenizer.tiny(), _check.ROOM)}


@pytest.mark.parametrize("name", [name for name in tasks.names() if name != "satisfiability"])
def test_our_own_tasks_keep_every_promise(name, monkeypatch):
    monkeypatch.setattr(_check, "PER_LENGTH", 3)
    found = reported(tasks.get(name))
    assert len(found) == 8 and all(kept for kept, _ in found.values()), found


def broken(folder, **methods):
    """The tutorial's task with some methods replaced."""
    base = type(tasks.get("brackets:Brackets"))
    return type("Broken", (base,), methods)()


BREAKS = {
    "sample() draws problems": {"sample": lambda self, rng, length: "(" * (length + 1)},
    "wording parses back": {"prompt": lambda self, brackets: f"How deep is {brackets[::-1]}?"},
    "recursion ends": {"recursion_limit": lambda self, length: length // 2},
    "answers agree": {"answer": lambda self, brackets: "0"},
    "rubbish is refused": {"final": lambda self, method, text: str(int(text.split(":")[-1]))},
    "contexts fit": {"trained_lengths": (1, 300), "evaluated_lengths": (1, 300)},
    "training set": {"training_problems": lambda self, method, rng, scale: iter(())},
}
FOLLOWS = {  # what else is broken then
    "sample() draws problems": tuple(BREAKS),
    "wording parses back": ("recursion ends", "answers agree", "splicing is exact"),
    "rubbish is refused": ("answers agree",),
}


@pytest.mark.parametrize("promise", BREAKS)
def test_a_broken_promise_is_named_with_what_shows_it(folder, promise, monkeypatch):
    monkeypatch.setattr(_check, "PER_LENGTH", 3)
    found = reported(broken(folder, **BREAKS[promise]))
    kept, said = found[promise]
    assert not kept and said and "\n" not in said
    assert all(kept for other, (kept, _) in found.items() if other not in (promise, *FOLLOWS.get(promise, ())))


def test_a_splice_that_cuts_tokens_otherwise_is_found(folder):
    class Glued(tokenizer.Tokenizer):
        """Takes a colon and what follows it for one token, as a tokenizer that cuts anywhere would."""

        def encode(self, text):
            glued = text.replace("Call: How", "\0")
            return [token for part in glued.split("\0") for token in (*super(Glued, self).encode(part), -7)][:-1]

    found = {promise: kept for kept, promise, _ in _check.report(broken(folder), Glued(tokenizer.tiny().path), 512)}
    assert not found.pop("splicing is exact") and all(found.values())


def test_the_command_reports_and_says_by_its_exit_code(folder):
    (folder / "odd.py").write_text(
        "from brackets import Brackets\nclass Odd(Brackets):\n    def answer(self, brackets):\n        return '0'\n"
    )

    def check(name):
        command = [sys.executable, "-m", "retune_jax.tasks", "--check", name]
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT), "PATH": ""})

    good, bad = check("brackets:Brackets"), check("odd:Odd")
    assert (good.returncode, good.stderr) == (0, "")
    lines = good.stdout.splitlines()
    assert len(lines) == 9 and all(line.startswith("ok    ") for line in lines[:-1])
    assert lines[-1] == "brackets:Brackets: can be trained, solved and evaluated"
    assert (bad.returncode, bad.stderr) == (1, "")
    assert [line[:4] for line in bad.stdout.splitlines()].count("FAIL") == 1
    assert bad.stdout.splitlines()[-1] == "odd:Odd: is not ready yet"


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


def test_a_solver_that_does_not_end_is_stopped_with_its_prompt(monkeypatch):
    with pytest.raises(UserError, match="endless: the solver calls itself in a circle, at 'Again 1'"):
        tasks.trace(Endless(lambda number: [3 - number]), 1)
    with pytest.raises(UserError, match="endless: too long, or without end: 5000 callers wait, now for 'Again 5001'"):
        tasks.trace(Endless(lambda number: [number + 1]), 0)
    monkeypatch.setattr(tasks.task, "MOST_CALLS", 50)
    with pytest.raises(UserError, match="without end: it has made 50 calls"):
        tasks.trace(Endless(lambda number: [] if number else range(1, 1000)), 0)
