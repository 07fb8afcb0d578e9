"""README and docs name no command that does not work: each is run here, up to where it begins to compute.

That it then does what it says is what the other tests show, of each command, with small settings; `.ci/run` runs the first one.
"""

import json
import re
import shlex
import shutil

import pytest
import small_run
from commands import ROOT, Commands

FILES = ["README.md", *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))]

# Where a command has checked all that a user wrote, and begins: what is not here runs to its end.
REACH = {
    "retune_jax.train": "retune_jax.training.loop:_train",
    "retune_jax.evaluate": "retune_jax.checkpoints.runs:load_model",
    "retune_jax.solve": "retune_jax.evaluation.solver:Solver.load",
    "retune_jax.study": "retune_jax.studies.runner:perform",
    "retune_jax.sweep": "retune_jax.processes:call",
    "retune_jax.evaluation.skills": "retune_jax.models.sharding:make_mesh",
    "retune_jax.tokenizer": "retune_jax.disk:replacing",
}


def documented(text):
    """The command lines in a Markdown text: in its blocks of code, and between backticks."""
    blocks = re.findall(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```", text, re.M | re.S)
    shell = [block for _, language, block in blocks if language in ("", "sh", "bash", "console", "text")]
    lines = [line for block in shell for line in block.replace("\\\n", " ").split("\n")]
    prose = re.sub(r"^( *)```.*?^\1```", "", text, flags=re.M | re.S)
    lines += [" ".join(span.split()) for span in re.findall(r"`([^`]*)`", prose, re.S)]
    for line in lines:
        for part in re.split(r"&&|\||;|\$\(", line):
            if found := re.search(r"python -m (retune_jax[.\w]*)(?: |$)(.*)", part.strip()):
                words = shlex.split(re.split(r" > | 2> ", found[2])[0], comments=True)
                yield found[1], words


COMMANDS = [(file, *command) for file in FILES for command in documented((ROOT / file).read_text())]
WHOLE = [(file, module, words) for file, module, words in COMMANDS if not any("…" in word for word in words)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the recipes, and a run, a base and an evaluation under every name that the documents use."""
    folder = tmp_path_factory.mktemp("reader")
    run = small_run.make(folder)
    report = {"task": "parity", "method": "retune", "trained_lengths": [1, 2], "rows": []}
    report["rows"] = [{"length": 1, "problems": 2, "correct": 1, "accuracy": 0.5, "low": 0.1, "high": 0.9}]
    report["rows"][0] |= {"statuses": {"ok": 2}, "errors": {}}
    (run / "eval.json").write_text(json.dumps(report))
    (folder / "configs").symlink_to(ROOT / "configs")
    shutil.copytree(ROOT / "docs", folder / "docs")  # what a command writes there is not the project's
    (folder / "brackets.py").symlink_to(ROOT / "docs" / "tutorial" / "brackets.py")  # the tutorial's
    (folder / "my_module.py").write_text("from brackets import Brackets as MyTask\n")
    return folder


@pytest.fixture(scope="module")
def commands(folder):
    with Commands(folder) as commands:
        yield commands


def prepare(folder, module, words):
    """Puts a run or a base where the command says that there is one, and says where the command is to begin."""
    flags = dict(word.lstrip("-").split("=", 1) for word in words if word.startswith("--") and "=" in word)
    if module == "retune_jax.train":
        shutil.rmtree(folder / "runs", ignore_errors=True)  # what stood in for a run of that name, by another recipe
    places = []
    if module not in ("retune_jax.train", "retune_jax.study", "retune_jax.sweep"):
        places += [(place, "run") for place in (*flags.get("workdirs", "").split(","), flags.get("workdir")) if place]
    places += [(place, "run") for place in flags.get("runs", "").split(",") if place and "study" in module]
    places += [(flags[key], "base") for key in ("config.base", "base") if flags.get(key) not in (None, "tiny", "random")]
    for place, kind in places:
        begun = module in ("retune_jax.evaluation.figure", "retune_jax.study") and not (folder / place / "eval.json").exists()
        if begun or not (folder / place).exists():  # a command before may have begun a run there, without results
            shutil.copytree(folder / kind, folder / place, dirs_exist_ok=True)
    if "file" in flags and not (folder / flags["file"]).exists():
        (folder / flags["file"]).write_text("[1, 0]\n")
    if module == "retune_jax.study" and "memory" in words:
        return "retune_jax.studies.memory:perform"
    if module == "retune_jax.convert":
        if "workdir" in flags:
            return f"retune_jax.checkpoints.exporting:export_{flags['format']}"
        if "recipe" in flags:  # a PEFT adapter, which its file tells
            (folder / flags["input"]).mkdir(exist_ok=True)
            (folder / flags["input"] / "adapter_config.json").touch()
            return "retune_jax.checkpoints.importing:import_adapter"
        return "retune_jax.checkpoints.importing:import_base"
    return REACH.get(module, "")


@pytest.mark.parametrize(
    "file, module, words", WHOLE, ids=[f"{file} {module} {' '.join(words)}" for file, module, words in WHOLE]
)
def test_a_documented_command_works(file, module, words, commands, folder):
    words = [word.replace("$stage", "2") for word in words]
    done = commands.run(module, *words, reach=prepare(folder, module, words))
    assert done.code == 0, done.err


def test_flags_of_a_study_may_stand_anywhere(commands):
    words = ["--recipe=configs/parity.py", "--config.train.steps=2", "resampling", "--workdir=studies/anywhere"]
    done = commands.run("retune_jax.study", *words, reach=REACH["retune_jax.study"])
    assert done.code == 0, done.err


def test_documents_are_read():
    assert len(WHOLE) >= 8
    text = "Try `python -m retune_jax.solve --workdir=DIR\n'1 + 2'`:\n```python\nx\n```\n"
    text += "```sh\npip install . && python -m retune_jax.train --a=b  # x\n```\n"
    assert list(documented(text)) == [
        ("retune_jax.train", ["--a=b"]),
        ("retune_jax.solve", ["--workdir=DIR", "1 + 2"]),
    ]
