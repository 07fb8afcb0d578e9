"""`--help` of every command: at once, with examples, a line a flag; and every default can be seen."""

import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from retune_jax import config as recipes

ROOT = Path(__file__).parents[1]
COMMANDS = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__")
    for path in (ROOT / "retune_jax").rglob("*.py")
    if "cli.run(main)" in path.read_text() and path.name != "cli.py"
)


def run(*arguments):
    return subprocess.run([sys.executable, "-m", *arguments], cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_quick_and_says_a_line_a_flag_and_examples(command):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = run(command, "--help")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert (done.returncode, done.stderr) == (0, "")
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 3
    words, flags = done.stdout.split("\nFlags:\n")
    assert f"python -m {command} " in words
    for line in flags.splitlines():
        assert re.fullmatch(r"  --[\w.]+(=[\w,]+)? {2,}\S.*", line), line


def test_there_are_commands_to_try():
    assert {"retune_jax.train", "retune_jax.evaluate", "retune_jax.solve", "retune_jax.tasks"} <= set(COMMANDS)


def test_every_default_can_be_seen_and_is_a_flag_that_sets_it():
    done = run("retune_jax.train", "--config=configs/parity.py:method=scratchpad", "--print_config", "--config.train.steps=7")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert "--config.train.steps=7" in lines and "--config.method=scratchpad" in lines
    config = recipes.recipe("method=scratchpad", task="parity")
    assert {line.split("=")[0] for line in lines} == {line.split("=")[0] for line in recipes.as_flags(config)}


@pytest.mark.parametrize(
    "arguments, nearest",
    [
        (["retune_jax.train", "--config=configs/parity.py", "--workdr=x"], "workdir"),
        (["retune_jax.train", "--config=configs/parity.py", "--config.train.stepz=3"], "steps"),
        (["retune_jax.train", "--config=configs/parity.py:methd=retune"], "method"),
        (["retune_jax.solve", "--workdir=x", "--jsn"], "json"),
        (["retune_jax.tasks", "--check=parit"], "parity"),
    ],
)
def test_what_is_nearly_right_is_suggested(arguments, nearest):
    done = run(*arguments)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert re.search(rf"[Dd]id you mean:? '?{nearest}\b", done.stderr), done.stderr
