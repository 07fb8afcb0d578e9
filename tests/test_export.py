"""Runs go out to PEFT and transformers, and adapters come in from PEFT, with the same logits on both sides.

Shapes: B rows, T tokens of a row.
"""

import json
import shutil

import numpy as np
import peft
import pytest
import torch
import transformers
from small_hf import edit, load, make, save, their_logits, tokens, train_tokenizer
from small_llama import whole

from retune_jax import config as recipes
from retune_jax.checkpoints import exporting, runs, weights
from retune_jax.checkpoints import peft as peft_files
from retune_jax.checkpoints.importing import import_adapter, import_base
from retune_jax.decoding import DecoderConfig, RecursiveDecoder
from retune_jax.errors import UserError
from retune_jax.models import sharding
from retune_jax.training import loop

TOKENS_BT = tokens(2, 24)

# PEFT 0.21 asks transformers 5 in words of its version 4.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """A folder with a model of transformers, `model`, and the base made of it, `base`."""
    folder = tmp_path_factory.mktemp("released")
    train_tokenizer(folder / "tokenizer.model")
    save(make(num_key_value_heads=2), folder / "model", folder / "tokenizer.model")
    import_base(folder / "model", folder / "base", dtype=None, tokenizer=None)
    return folder


def fresh_model(released):
    return transformers.AutoModelForCausalLM.from_pretrained(released / "model", dtype="float32")


def theirs(released, folder, targets=("q", "k", "v", "o"), rank=64, alpha=16, **options):
    """An adapter that PEFT writes, with B not zero; returns its model too."""
    config = peft.LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=0.05,
        target_modules=[f"{name}_proj" for name in targets],
        task_type="CAUSAL_LM",
        **options,
    )
    model = peft.get_peft_model(fresh_model(released), config)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.05)
    model.save_pretrained(folder)
    return model.eval()


def recipe(released):
    config = recipes.recipe("model=custom", task="parity")
    config.base = str(released / "base")
    config.train.remat = "none"
    return config


def our_logits(workdir):
    _, model, _ = runs.load_model(workdir, sharding.make_mesh(-1, 1, 1))
    return np.asarray(whole(model, TOKENS_BT))


def close(ours, expected, base):
    assert np.abs(ours - expected).max() <= 1e-4
    assert np.abs(base - expected).max() > 0.1, "the adapter makes a difference"


@pytest.fixture(scope="module")
def run(released):
    """An adapter of the authors' kind, brought in from PEFT as a run; and PEFT's logits."""
    model = theirs(released, released / "adapter")
    config = recipe(released)
    import_adapter(released / "adapter", released / "run", config)
    return released / "run", their_logits(model, TOKENS_BT)


def test_an_adapter_of_pefts_runs_here_with_the_same_logits(run, released):
    workdir, expected = run
    close(our_logits(workdir), expected, their_logits(fresh_model(released), TOKENS_BT))
    config, model, tokenizer = runs.load_model(workdir, sharding.make_mesh(-1, 1, 1))
    assert config.lora.to_dict() == {"rank": 64, "alpha": 16.0, "dropout": 0.05, "targets": "q,k,v,o"}
    limits = {"slots": 2, "window": 64, "max_depth": 2, "stack_tokens": 128, "max_tokens": 20, "max_calls": 2}
    decoder = RecursiveDecoder(model, tokenizer, DecoderConfig(**(config.decode.to_dict() | limits)))
    assert all(result.status for result in decoder.solve(["What is the parity of [0, 1]?"]))


@pytest.mark.parametrize("form", ["all projections", "bin", "rank-stabilised", "some"])
def test_every_form_of_a_peft_adapter_comes_in(form, released, tmp_path):
    targets = {"all projections": ("q", "k", "v", "o", "gate", "up", "down")}
    targets = targets.get(form, ("v", "down") if form == "some" else ("q", "k", "v", "o"))
    model = theirs(released, tmp_path / "adapter", targets, rank=4, alpha=6, use_rslora=form == "rank-stabilised")
    if form == "bin":
        (tmp_path / "adapter" / "adapter_model.safetensors").unlink()
        torch.save(peft.get_peft_model_state_dict(model), tmp_path / "adapter" / "adapter_model.bin")
    import_adapter(tmp_path / "adapter", tmp_path / "run", recipe(released))
    close(our_logits(tmp_path / "run"), their_logits(model, TOKENS_BT), their_logits(fresh_model(released), TOKENS_BT))


def test_an_exported_adapter_loads_in_peft_with_the_same_logits(run, released, tmp_path):
    workdir, expected = run
    exporting.export_peft(workdir, tmp_path / "adapter")
    model = peft.PeftModel.from_pretrained(fresh_model(released), tmp_path / "adapter").eval()
    np.testing.assert_array_equal(their_logits(model, TOKENS_BT), expected)
    by_itself = peft.AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter")  # finds the base where it came from
    np.testing.assert_array_equal(their_logits(by_itself, TOKENS_BT), expected)


@pytest.mark.parametrize("shard", [10**9, 30_000])
def test_an_exported_model_loads_in_transformers_with_the_same_logits(shard, run, released, tmp_path, monkeypatch):
    workdir, expected = run
    monkeypatch.setattr(exporting, "SHARD", shard)
    exporting.export_hf(workdir, tmp_path / "model")
    assert (len(list((tmp_path / "model").glob("model*.safetensors"))) > 1) == (shard < 10**9)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype="float32").eval()
    close(their_logits(model, TOKENS_BT), expected, their_logits(fresh_model(released), TOKENS_BT))
    import_base(tmp_path / "model", tmp_path / "base", dtype=None, tokenizer=None)
    assert weights.read_shape(tmp_path / "base" / "model.json") == weights.read_shape(released / "base" / "model.json")
    close(np.asarray(whole(load(tmp_path / "base"), TOKENS_BT)), expected, 0)


def test_an_exported_tokenizer_cuts_text_as_ours_does(run, tmp_path):
    exporting.export_hf(run[0], tmp_path / "model")
    read = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")
    tokenizer = runs.load_adapter(run[0])[1].tokenizer
    for text in (" What is the parity of [0, 1, 1]?\nSolution:", "Return: 0\nAnswer:", " 0", " 12 + 345,  ünïcode\n\n x"):
        assert read.encode(text, add_special_tokens=False) == tokenizer.encode(text)
        assert read.encode(text) == [tokenizer.bos, *tokenizer.encode(text)]
    assert read.eos_token_id == tokenizer.eos


def test_the_base_that_ships_goes_out_to_transformers_too(tmp_path):
    base = weights.load_base("tiny", "tiny")
    exporting.write_hf(base, None, {}, tmp_path / "model")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype="float32")
    assembled = weights.assemble(base, None, remat="none", context_length=None, seed=0, mesh=sharding.make_mesh(-1, 1, 1))
    assert np.abs(their_logits(model, TOKENS_BT) - np.asarray(whole(assembled, TOKENS_BT))).max() <= 1e-4
    read = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")
    text = " What is the parity of [0, 1, 1]?\nSolution: Call: What is the parity of [1, 1]?\nReturn: 0\nAnswer: 0"
    assert read.encode(text, add_special_tokens=False) == base.tokenizer.encode(text)


@pytest.mark.parametrize("kind, options", [("mistral", {"sliding_window": 64}), ("llama", {"tie_word_embeddings": True})])
def test_other_shapes_survive_the_way_in_and_out(kind, options, released, tmp_path):
    rope = {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "rope_theta": 5e5}
    rope["original_max_position_embeddings"] = 32
    model = make(kind, num_key_value_heads=1, dtype=torch.bfloat16, rope_parameters=rope, **options)
    save(model, tmp_path / "in", released / "tokenizer.model")
    shape = import_base(tmp_path / "in", tmp_path / "base", dtype=None, tokenizer=None)
    exporting.write_hf(weights.load_base(str(tmp_path / "base"), "custom"), None, {}, tmp_path / "out")
    assert import_base(tmp_path / "out", tmp_path / "again", dtype=None, tokenizer=None) == shape
    back = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="bfloat16")
    expected = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "in", dtype="bfloat16")
    assert type(back) is type(model)
    np.testing.assert_array_equal(their_logits(back, TOKENS_BT), their_logits(expected, TOKENS_BT))


@pytest.mark.slow
def test_training_goes_on_from_an_adapter_that_came_in(released, tmp_path):
    theirs(released, tmp_path / "adapter", rank=4)
    config = recipe(released)
    config.data.update({"dir": str(tmp_path / "data"), "scale": 0.0005, "sequence_length": 256, "context_length": 256})
    config.train.steps = 1
    config.eval.update({"lengths": "1", "problems_per_length": 1})
    config.decode.max_tokens = 20
    import_adapter(tmp_path / "adapter", tmp_path / "run", config)
    before = runs.load_adapter(tmp_path / "run")[-1]
    loop.train(config, tmp_path / "run")
    after = runs.load_adapter(tmp_path / "run")[-1]
    moved = max(np.abs(after[name] - before[name]).max() for name in before)
    assert 0 < moved < 2 * config.train.learning_rate, "one step from where it was, not from a fresh start"


# What cannot be converted


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"peft_type": "PREFIX_TUNING"}, ["PREFIX_TUNING"]),
        ({"use_dora": True}, ["use_dora"]),
        ({"bias": "all"}, ["bias"]),
        ({"modules_to_save": ["lm_head"]}, ["modules_to_save"]),
        ({"rank_pattern": {"q_proj": 3}}, ["rank_pattern"]),
        ({"init_lora_weights": "pissa"}, ["pissa"]),
        ({"target_modules": ".*_proj"}, ["pattern"]),
        ({"target_modules": ["q_proj", "lm_head"]}, ["lm_head"]),
        ({"target_modules": ["q_proj"]}, ["unknown tensor", "k_proj"]),
        ({"target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "up_proj"]}, ["no tensor", "up_proj"]),
        ({"r": 32}, ["lora_A", "64", "32"]),
    ],
)
def test_adapters_that_are_not_known_are_refused_by_name(changes, words, run, released, tmp_path):
    shutil.copytree(released / "adapter", tmp_path / "adapter")
    edit(tmp_path / "adapter" / "adapter_config.json", **changes)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError) as caught:
        import_adapter(tmp_path / "adapter", tmp_path / "below" / "run", recipe(released))
    assert all(word in str(caught.value) for word in words), caught.value
    assert sorted(tmp_path.rglob("*")) == before, "nothing is left behind"


def test_what_cannot_be_exported_is_one_line(run, released, tmp_path):
    with pytest.raises(UserError, match="exists already"):
        exporting.export_peft(run[0], run[0])
    config = recipe(released)
    runs.claim(tmp_path / "fresh", config)
    with pytest.raises(UserError, match="no checkpoint yet"):
        exporting.export_hf(tmp_path / "fresh", tmp_path / "out")
    config.lora.rank = 0
    runs.claim(tmp_path / "full", config)
    with pytest.raises(UserError, match="not at its end"):
        exporting.export_hf(tmp_path / "full", tmp_path / "out")
    shutil.copytree(released / "base", tmp_path / "full" / "base")
    with pytest.raises(UserError, match="--format=hf"):
        exporting.export_peft(tmp_path / "full", tmp_path / "out")
    exporting.export_hf(tmp_path / "full", tmp_path / "out")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="float32")
    np.testing.assert_array_equal(their_logits(model, TOKENS_BT), their_logits(fresh_model(released), TOKENS_BT))
    assert json.loads((tmp_path / "out" / "config.json").read_text())["rms_norm_eps"] == 1e-5
    assert peft_files.their_name("q", 3, "A") == "base_model.model.model.layers.3.self_attn.q_proj.lora_A.weight"
