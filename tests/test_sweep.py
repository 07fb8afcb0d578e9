"""A sweep makes every combination once, judges the runs on problems of their own, and puts the best first."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from retune_jax import sweep
from retune_jax.errors import UserError
from retune_jax.evaluation import skills

RECIPE = str(Path(__file__).parents[1] / "configs" / "parity.py")
OVER = ["train.learning_rate=1e-3,3e-3", "lora.rank=8,16"]


@pytest.fixture
def commands(monkeypatch):
    """The commands made; one that judges writes shares that grow with the rank and fall with the rate, times `share`."""
    seen = SimpleNamespace(made=[], code=0, share=1.0)

    def call(command):
        module, flags = command[2], dict(flag.lstrip("-").partition("=")[::2] for flag in command[3:])
        seen.made.append(module.rpartition(".")[2])
        folder = Path(flags["workdir"])
        folder.mkdir(parents=True, exist_ok=True)
        rate, rank = map(float, folder.name.removeprefix("learning_rate=").split("-rank="))
        if module.endswith("train"):
            losses = [9.0] * 18 + [rank, rank + 2 * rate]
            (folder / "metrics.jsonl").write_text("".join(f'{{"loss": {loss}}}\n' for loss in losses))
        if module.endswith("skills"):
            share = seen.share * (rank / 20 - 10 * rate)
            lengths = flags["lengths"].split(",")
            shares = {name: dict.fromkeys(lengths, share) for name in (skills.CALLS, skills.ANSWERS)}
            Path(flags["output"]).write_text(json.dumps({"exact": shares}))
        return seen.code

    monkeypatch.setattr(sweep, "call", call)
    return seen


def perform(workdir, extra=(), lengths=None):
    sweep.perform(RECIPE, workdir, OVER, list(extra), lengths, 8)
    return json.loads((workdir / sweep.JSON).read_text())["runs"]


def test_every_combination_is_made_and_judged_and_the_best_comes_first(commands, tmp_path, capsys):
    runs = perform(tmp_path)
    assert commands.made == ["train", "skills"] * 4
    assert len({run["folder"] for run in runs}) == 4
    assert [run["score"] for run in runs] == sorted((run["score"] for run in runs), reverse=True)
    assert runs[0]["settings"] == ["train.learning_rate=1e-3", "lora.rank=16"]
    lines = capsys.readouterr().out.split("\n")
    assert lines[0].startswith("| settings | beyond | loss | 21 | 25 |") and "rank=16" in lines[2]


def test_among_runs_with_nothing_exact_the_lower_loss_comes_first(commands, tmp_path):
    commands.share = 0.0
    runs = perform(tmp_path)
    assert runs[0]["settings"] == ["train.learning_rate=1e-3", "lora.rank=8"]
    assert [run["loss"] for run in runs] == pytest.approx([8.001, 8.003, 16.001, 16.003])


def test_what_was_judged_is_not_judged_again_unless_other_lengths_are_asked_for(commands, tmp_path):
    perform(tmp_path)
    commands.made.clear()
    perform(tmp_path)
    assert commands.made == ["train"] * 4, "which sees for itself that all its steps are there"
    commands.made.clear()
    perform(tmp_path, lengths="30")
    assert commands.made == ["train", "skills"] * 4


def test_a_run_that_fails_ends_the_sweep_with_its_code(commands, tmp_path):
    commands.code = 3
    with pytest.raises(SystemExit) as ended:
        perform(tmp_path)
    assert ended.value.code == 3 and commands.made == ["train"]


def test_only_lengths_beyond_the_trained_count():
    exact = {skills.CALLS: {"21": 0.0, "30": 1.0, "40": 0.5}, skills.ANSWERS: {"21": 0.0, "30": 0.8, "40": 1.0}}
    assert sweep.score(exact, trained=21) == pytest.approx((0.8 + 0.5) / 2)


@pytest.mark.parametrize("text", ["lora.rank", "lora.rank=", "=3", "lora.rank=8,,16"])
def test_a_setting_that_cannot_be_read_is_named(text):
    with pytest.raises(UserError, match="--over="):
        sweep.combinations([text])
