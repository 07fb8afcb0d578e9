"""A configuration is complete, checked as a whole, and a mistake in it is one line that names it."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from retune_jax import config as recipes
from retune_jax import config_file, tasks
from retune_jax.errors import UserError
from retune_jax.evaluation import sizes
from retune_jax.tokenizer import tiny

ROOT = Path(__file__).parents[1]


def test_arguments_choose_method_and_model():
    config = recipes.recipe("model=llama_7b,method=scratchpad", task="parity")
    assert (config.task, config.method, config.model) == ("parity", "scratchpad", "llama_7b")
    assert not config.decode.calls
    assert recipes.recipe("", task="parity").decode.calls


def test_llama_presets_have_the_papers_recipe():
    config = recipes.recipe("model=llama_13b", task="parity")
    assert config.lora.to_dict() == {"rank": 64, "alpha": 64.0, "dropout": 0.05, "targets": "q,k,v,o"}
    train = config.train
    assert (train.learning_rate, train.schedule, train.warmup, train.clip) == (2e-4, "constant", 1, 10.0)
    assert (train.weight_decay, train.loss, config.data.sequence_length, config.data.scale) == (0.01, "sum", 2048, 1.0)


def test_the_training_set_is_small_or_the_papers():
    sizes = {given: recipes.recipe(given, task="parity", small=0.2).data.scale for given in ("", "data=paper", "data=small")}
    assert sizes == {"": 0.2, "data=paper": 1.0, "data=small": 0.2}
    assert recipes.recipe("model=llama_7b", task="parity", small=0.2).data.scale == 1.0
    assert recipes.recipe("model=llama_7b,data=small", task="parity", small=0.2).data.scale == 0.2


@pytest.mark.parametrize("method", [*tasks.METHODS, *tasks.ABLATIONS])
@pytest.mark.parametrize("task", tasks.names())
def test_shipped_recipes_are_valid_and_their_windows_hold_what_they_evaluate(task, method):
    spec = importlib.util.spec_from_file_location(task, ROOT / "configs" / f"{task}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config(f"method={method}")
    assert (config.task, config.method) == (task, method)
    recipes.validate(config)
    decoder = sizes.for_evaluation(config, tiny())
    assert all(getattr(decoder, name) >= 0 for name in sizes.SIZED) and decoder.window > 0


@pytest.mark.parametrize(
    "arguments, words",
    [
        ("modle=tiny", ["modle", "did you mean 'model'?"]),
        ("model", ["model=VALUE"]),
        ("model=", ["model=VALUE"]),
        ("method=guess", ["guess", "retune"]),
        ("data=large", ["large", "small or paper"]),
    ],
)
def test_wrong_arguments_are_named(arguments, words):
    with pytest.raises(UserError) as error:
        recipes.recipe(arguments, task="parity")
    assert all(word in str(error.value) for word in words)


@pytest.mark.parametrize(
    "path, value",
    [
        ("model", "llama_8b"),
        ("train.schedule", "cosin"),
        ("train.loss", "median"),
        ("train.remat", "some"),
        ("train.steps", 0),
        ("train.learning_rate", 0.0),
        ("train.learning_rate", float("nan")),
        ("train.clip", -1.0),
        ("train.accumulate", 3),
        ("lora.rank", -1),
        ("lora.targets", "q,x"),
        ("lora.dropout", 1.0),
        ("data.scale", 1.5),
        ("decode.window", 0),
        ("eval.lengths", "5:2"),
        ("eval.lengths", "a"),
        ("eval.lengths", "0:3"),
    ],
)
def test_wrong_values_are_named(path, value):
    config = recipes.recipe("", task="parity")
    config.update_from_flattened_dict({path: value})
    with pytest.raises(UserError) as error:
        recipes.validate(config)
    shown = str(value).split(",")[-1] if path == "lora.targets" else str(value)
    assert shown in str(error.value) and path.split(".")[-1] in (str(error.value) + "rows accumulate")
    assert "\n" not in str(error.value)


def test_what_follows_from_the_method_is_refused_when_it_is_set_apart():
    for key, value in {"decode.calls": False, "decode.opening": "\nAnswer:", "decode.carry": False}.items():
        config = recipes.recipe("", task="parity")
        config.update_from_flattened_dict({key: value})
        with pytest.raises(UserError, match=f"config.{key}"):
            recipes.validate(config)
    for key in ("method", "model"):
        with pytest.raises(UserError, match=rf"--config=FILE\.py:{key}=x"):
            recipes.check_overrides({key: "x"})


@pytest.mark.parametrize("seed", [-1, 2**63, 2**64, 2**70])
def test_a_seed_that_is_no_seed_is_named(seed):
    for key in ("seed", "decode.seed"):
        changed = recipes.recipe("", task="parity")
        changed.update_from_flattened_dict({key: seed})
        with pytest.raises(UserError, match=rf"config\.{key}: {seed} is not in"):
            recipes.validate(changed)


def test_numbers_that_train_nothing_are_refused():
    for key, value in {"lora.alpha": 0.0, "train.clip": float("inf"), "train.weight_decay": float("-inf")}.items():
        changed = recipes.recipe("", task="parity")
        changed.update_from_flattened_dict({key: value})
        with pytest.raises(UserError, match=rf"config\.{key}"):
            recipes.validate(changed)


def test_a_method_that_comes_too_late_for_its_recipe_is_refused():
    config = recipes.recipe("", task="parity")
    config.method = "baseline"
    with pytest.raises(UserError, match=r"FILE\.py:method=baseline"):
        recipes.validate(config)


def test_a_model_without_weights_asks_for_them():
    with pytest.raises(UserError, match=r"--config\.base=DIR"):
        recipes.validate(recipes.recipe("model=llama_7b", task="parity"))


@pytest.mark.parametrize("text, lengths", [("1:4", [1, 2, 3, 4]), ("7", [7]), ("8,2:3", [2, 3, 8]), ("2:3,3:4", [2, 3, 4])])
def test_lengths_are_read(text, lengths):
    assert recipes.read_lengths(text) == lengths


def test_a_configuration_survives_its_file(tmp_path):
    config = recipes.recipe("model=llama_7b", task="parity")
    config_file.write(config, tmp_path / "config.json")
    assert config_file.read(tmp_path / "config.json").to_dict() == config.to_dict()
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_only_what_changes_learning_makes_another_experiment():
    old, new = recipes.recipe("", task="parity"), recipes.recipe("", task="parity")
    new.train.steps, new.mesh.fsdp, new.eval.lengths, new.decode.slots = 7, 2, "1:3", 3
    assert config_file.first_difference(old, new) is None
    new.train.learning_rate = 1.0
    assert config_file.first_difference(old, new) == ("train.learning_rate", old.train.learning_rate, 1.0)


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--config=configs/parity.py", "--config.traim.steps=3"], ["--config.traim.steps", "did you mean 'train'?"]),
        (["--config=configs/parity.py", "--config.zzz=3"], ["--config.zzz"]),
        (["--config=configs/parity.py", "--config.train.steps=many"], ["--config.train.steps=many"]),
        (["--config=configs/absent.py"], ["configs/absent.py"]),
        (["--config=configs/base.py:stage=9"], ["stage=9", "1, 2, 3"]),
        (["--config=configs/parity.py:methd=retune"], ["methd", "did you mean 'method'?"]),
        (["--config=configs/parity.py", "--wrkdir=x"], ["wrkdir"]),
        (["--config=configs/parity.py", "extra"], ["extra"]),
        ([], ["--config"]),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line_and_exit_code_2(arguments, words, tmp_path):
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    env = dict(os.environ, PYTHONPATH=str(ROOT), PYTHONDONTWRITEBYTECODE="1")
    command = [sys.executable, "-m", "retune_jax.train", *arguments]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("retune_jax: error: ")
    assert all(word in done.stderr for word in words)
    assert [path.name for path in tmp_path.iterdir()] == ["configs"]


def test_help_is_quick_and_exits_with_0():
    command = [sys.executable, "-X", "importtime", "-m", "retune_jax.train", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "--workdir" in done.stdout
    assert " jax\n" not in done.stderr


def test_a_platform_that_is_not_there_is_named(tmp_path):
    command = [sys.executable, "-m", "retune_jax.train", "--config=configs/parity.py", f"--workdir={tmp_path / 'run'}"]
    env = dict(os.environ, JAX_PLATFORMS="cuda")
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "JAX_PLATFORMS=cuda" in done.stderr
    assert not (tmp_path / "run").exists()
