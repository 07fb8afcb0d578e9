"""The skills command asks for what the corpus teaches and counts whole texts."""

import json
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from test_corpus import check

from retune_jax import tasks
from retune_jax.data.encode import encode
from retune_jax.evaluation import skills
from retune_jax.tokenizer import tiny

LENGTHS = (5, 30)


@pytest.mark.parametrize("name", skills.SKILLS)
def test_every_skill_is_one_of_the_corpus(name):
    """The check of the corpus's own examples finds each wanted text right, so that a perfect model gets 1.0."""
    for length in LENGTHS:
        found = skills.skill_examples(name, length, 30)
        assert len(found) == 30 and len({str(example) for example in found}) > 20
        for example in found:
            assert check(example), example


def test_problems_of_the_evaluation_are_not_among_those_that_choose_a_run():
    from retune_jax.evaluation.accuracy import problems

    task = tasks.get("parity")
    evaluated = {task.question(problem, "retune") for _, problem in problems(task, [30], 200)}
    asked = {example["inputs"][0].split("\n")[0][1:] for example in skills.task_examples(task, "retune", 30, 200)[skills.CALLS]}
    assert len(asked) == 200 and not asked & evaluated


class Oracle(nnx.Module):
    """Writes what the given texts say, but for the token at a place of some texts."""

    def __init__(self, encoded, wrong):
        self.answers = nnx.data({tuple(one["tokens_T"].tolist()): one["targets_T"] for one in encoded})
        self.wrong = nnx.data(wrong)

    def __call__(self, tokens_BT, positions_BT, segments_BT, _):
        targets_BT = np.zeros(tokens_BT.shape, np.int32)
        for row, (tokens, used) in enumerate(zip(np.asarray(tokens_BT), np.asarray(segments_BT))):
            if text := tuple(tokens[: used.sum()].tolist()):
                answer = np.array(self.answers[text])
                if text in self.wrong:
                    answer[self.wrong[text]] += 1
                targets_BT[row, : len(answer)] = answer
        return jnp.asarray(targets_BT[..., None] == np.arange(600))


def test_a_text_counts_only_when_every_token_of_it_is_right():
    import jax

    tokenizer = tiny()
    examples = skills.skill_examples("two numbers", 9, 40)
    encoded = [encode(tokenizer, example, "sum") for example in examples]
    wrong = {}
    for i, one in enumerate(encoded):
        asked = np.flatnonzero(one["weights_T"])
        if i % 4 == 1:
            wrong[tuple(one["tokens_T"].tolist())] = asked[-1]  # the end of the segment counts, too
        if i % 4 == 2:
            wrong[tuple(one["tokens_T"].tolist())] = asked[0] - 1  # what is not asked for does not
    with jax.disable_jit():
        found = skills.Reader(Oracle(encoded, wrong), tokenizer).exact(examples)
    assert found == [i % 4 != 1 for i in range(40)]


def test_the_command_prints_a_table_and_writes_the_shares(tmp_path):
    command = [sys.executable, "-m", "retune_jax.evaluation.skills", "--lengths=5,41", "--problems=16"]
    result = subprocess.run([*command, f"--output={tmp_path / 'skills.json'}"], capture_output=True, text=True, check=True)
    shares = json.loads((tmp_path / "skills.json").read_text())["exact"]
    assert set(shares) == set(skills.SKILLS)
    assert shares["random bits"]["41"] > 0.8, "the base that ships copies"
    assert "| random bits |" in result.stdout and "| two signed lists |" in result.stdout
    assert set(shares["two signed lists"]) == {"5"}, "the corpus has no longer ones"


@pytest.mark.parametrize("flag", ["--base=nowhere", "--task_only", "--workdir=nowhere", "--lengths=x"])
def test_a_mistake_is_one_line(flag, tmp_path):
    command = [sys.executable, "-m", "retune_jax.evaluation.skills", flag]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 2 and len(result.stderr.strip().split("\n")) == 1
