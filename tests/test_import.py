"""Released weights come in as they are: the same logits as transformers, or one line that says why not."""

import json
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
import transformers
from small_hf import SIZES, VOCAB, edit, load, make, save, their_logits, tokens, train_tokenizer
from small_llama import whole

from retune_jax.checkpoints import hugging_face, safetensors, weights
from retune_jax.checkpoints.importing import import_base, parameters, pieces
from retune_jax.checkpoints.source import Source
from retune_jax.errors import UserError
from retune_jax.models import presets
from retune_jax.models.rope import RopeScaling


@pytest.fixture(scope="module")
def tokenizer_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    train_tokenizer(path)
    return path


@pytest.fixture(scope="module")
def released(tmp_path_factory, tokenizer_file):
    """A model of transformers and its folder."""
    model = make(num_key_value_heads=2)
    return model, save(model, tmp_path_factory.mktemp("released") / "model", tokenizer_file)


@pytest.fixture
def folder(released, tmp_path):
    """A copy of that folder, to be spoilt."""
    shutil.copytree(released[1], tmp_path / "model")
    return tmp_path / "model"


def convert(folder, output, dtype=None, tokenizer=None):
    return import_base(folder, output, dtype=dtype, tokenizer=tokenizer)


def assert_same_logits(model, base, length=24, tolerance=1e-4):
    tokens_BT = tokens(2, length)
    theirs, ours = their_logits(model, tokens_BT), np.asarray(whole(load(base), tokens_BT))
    assert np.abs(theirs).max() > 1, "logits of a size at which the tolerance means something"
    assert np.abs(theirs - ours).max() <= tolerance
    return ours


LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
ROTATIONS = {
    "10k": {"rope_theta": 1e4},
    "500k": {"rope_theta": 5e5},
    "1M": {"rope_theta": 1e6},
    "linear": {"rope_theta": 1e4, "rope_type": "linear", "factor": 4.0},
    "llama3": {"rope_theta": 5e5, **LLAMA3, "original_max_position_embeddings": 64},
}


@pytest.mark.parametrize(
    "rotation, kv_heads, tied",
    [("10k", 4, False), ("10k", 2, True), ("500k", 1, False), ("1M", 2, False), ("linear", 4, True), ("llama3", 2, False)],
)
def test_logits_are_those_of_transformers(rotation, kv_heads, tied, tmp_path, tokenizer_file):
    rope = {"rope_type": "default"} | ROTATIONS[rotation]
    model = make(num_key_value_heads=kv_heads, tie_word_embeddings=tied, rope_parameters=rope)
    convert(save(model, tmp_path / "model", tokenizer_file), tmp_path / "base")
    assert_same_logits(model, tmp_path / "base", length=200)


def test_rotary_scaling_in_the_words_of_older_configs(folder, tmp_path):
    rope = {"type": "linear", "factor": 2.5}
    edit(folder / "config.json", rope_parameters=None, rope_theta=5e5, rope_scaling=rope)
    assert convert(folder, tmp_path / "linear").rope_scaling == RopeScaling("linear", 2.5)
    rope = LLAMA3 | {"original_max_position_embeddings": 512}
    edit(folder / "config.json", rope_scaling=rope)
    shape = convert(folder, tmp_path / "llama3")
    assert (shape.rope_theta, shape.rope_scaling) == (5e5, RopeScaling("llama3", 8.0, 1.0, 4.0, 512))
    assert weights.read_shape(tmp_path / "llama3" / "model.json") == shape
    edit(folder / "config.json", rope_scaling=None, rope_theta=None, num_key_value_heads=None, head_dim=None)
    with pytest.raises(UserError, match="k_proj"):  # as many key heads as query heads, in LLaMA 1's config without a number
        convert(folder, tmp_path / "plain")


def test_mistral_comes_in_and_its_window_is_never_ignored(tmp_path, tokenizer_file):
    model = make("mistral", num_key_value_heads=2, sliding_window=16)
    shape = convert(save(model, tmp_path / "model", tokenizer_file), tmp_path / "base")
    assert shape.sliding_window == 16
    assert_same_logits(model, tmp_path / "base", length=16)
    base = load(tmp_path / "base")
    with pytest.raises(UserError, match="sliding attention window of 16"):
        whole(base, tokens(1, 17))
    with pytest.raises(UserError, match="sliding attention window of 16"):
        base.init_cache(1, 17)


@pytest.mark.parametrize("form", ["sharded safetensors", "bin", "sharded bin", "old bin"])
def test_every_form_of_a_hugging_face_folder_gives_the_same_base(form, released, tmp_path):
    model, folder = released
    convert(folder, tmp_path / "expected")
    changed = tmp_path / "model"
    shutil.copytree(folder, changed)
    if form == "sharded safetensors":
        (changed / "model.safetensors").unlink()
        model.save_pretrained(changed, max_shard_size="20KB")
        assert len(list(changed.glob("model-*.safetensors"))) > 2
    else:
        (changed / "model.safetensors").unlink()
        state = model.state_dict() | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
        halves = [dict(list(state.items())[::2]), dict(list(state.items())[1::2])] if "sharded" in form else [state]
        names = [f"part-{i}.bin" for i in range(2)] if len(halves) > 1 else ["pytorch_model.bin"]
        for name, half in zip(names, halves):
            torch.save(half, changed / name, _use_new_zipfile_serialization=form != "old bin")
        if len(halves) > 1:
            places = {key: name for name, half in zip(names, halves) for key in half}
            (changed / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": places}))
    convert(changed, tmp_path / "base")
    for name in ("model.json", "tokenizer.model", "weights.safetensors"):
        assert (tmp_path / "base" / name).read_bytes() == (tmp_path / "expected" / name).read_bytes()


def write_meta(model, folder, tokenizer_file, shards: int, **params):
    """What Meta's own files hold for a model of transformers: other names, neighbouring pairs, cut for GPUs."""
    config = model.config
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    names = {
        **{"self_attn.q_proj": "attention.wq", "self_attn.k_proj": "attention.wk", "self_attn.v_proj": "attention.wv"},
        **{"self_attn.o_proj": "attention.wo", "mlp.gate_proj": "feed_forward.w1", "mlp.up_proj": "feed_forward.w3"},
        **{"mlp.down_proj": "feed_forward.w2", "input_layernorm": "attention_norm", "post_attention_layernorm": "ffn_norm"},
        **{"model.": "", "embed_tokens": "tok_embeddings", "lm_head": "output"},
    }
    parts = [{"rope.freqs": torch.ones(4)} for _ in range(shards)]
    for name, weight in model.state_dict().items():
        for projection, count in heads.items():
            if projection in name:
                weight = weight.reshape(count, 2, config.head_dim // 2, -1).transpose(1, 2).reshape(weight.shape)
        by_inputs = any(kind in name for kind in ("o_proj", "down_proj", "embed_tokens"))
        for theirs, metas in names.items():
            name = name.replace(theirs, metas)
        cut = [weight] * shards if "norm" in name else weight.chunk(shards, dim=int(by_inputs))
        for part, piece in zip(parts, cut):
            part[name] = piece.contiguous().clone()
    folder.mkdir(parents=True)
    for number, part in enumerate(parts):
        torch.save(part, folder / f"consolidated.{number:02d}.pth")
    written = {"dim": 32, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "norm_eps": 1e-5, "vocab_size": -1, "multiple_of": 8}
    (folder / "params.json").write_text(json.dumps(written | {"ffn_dim_multiplier": 0.56} | params))
    (folder.parent / "tokenizer.model").write_bytes(tokenizer_file.read_bytes())  # beside the sizes' folders, as LLaMA 1 has it
    return folder


@pytest.mark.parametrize("shards", [1, 2])
def test_metas_own_files_give_the_same_base(shards, released, tmp_path, tokenizer_file):
    model, folder = released
    shape = convert(write_meta(model, tmp_path / "llama" / "7B", tokenizer_file, shards), tmp_path / "base")
    assert shape == convert(folder, tmp_path / "expected") and shape.hidden == SIZES["intermediate_size"]
    files = (tmp_path / name / "weights.safetensors" for name in ("base", "expected"))
    assert next(files).read_bytes() == next(files).read_bytes()


@pytest.mark.parametrize("stored", ["bfloat16", "float16"])
def test_sixteen_bits_become_bfloat16_unless_asked_otherwise(stored, tmp_path, tokenizer_file):
    model = make(dtype=getattr(torch, stored))
    folder = save(model, tmp_path / "model", tokenizer_file)
    shape = convert(folder, tmp_path / "base")
    assert shape.dtype == shape.param_dtype == "bfloat16"
    found = safetensors.read(tmp_path / "base" / "weights.safetensors")["head"][...]
    expected = model.state_dict()["lm_head.weight"].T.to(torch.bfloat16).float().numpy()
    np.testing.assert_array_equal(found.astype(np.float32), expected)
    convert(folder, tmp_path / "wide", dtype="float32")
    assert_same_logits(transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="float32"), tmp_path / "wide")


@pytest.mark.slow
def test_a_large_model_passes_through_little_memory(tmp_path, tokenizer_file):
    """A random checkpoint of TinyLlama's shape, 1.1 B parameters, in a process of its own."""
    shape = presets.get("tinyllama_1b")
    names = {}
    for parameter, (dtype, whole_shape) in parameters(shape).items():
        source = Source(shape, None, {}, hugging_face.NAMES)
        names |= {name: (dtype, one) for name, one in pieces(source, parameter, whole_shape).items()}
    noise = np.random.default_rng(0).normal(0, 0.02, 2**16).astype(np.dtype("bfloat16"))

    def parts(name):
        yield np.resize(noise, names[name][1])

    (tmp_path / "model").mkdir()
    safetensors.write(tmp_path / "model" / "model.safetensors", names, parts, {"format": "pt"})
    (tmp_path / "model" / "config.json").write_text(json.dumps(hugging_face.config_of(shape, bos=1, eos=2)))
    (tmp_path / "model" / "tokenizer.model").write_bytes(tokenizer_file.read_bytes())
    measured = "import re, sys; from pathlib import Path; from retune_jax import convert; from absl import flags; "
    measured += "flags.FLAGS(sys.argv); convert.main([]); "
    # Not getrusage: its figure begins with that of the process which started this one.
    measured += r"print(int(re.search(r'VmHWM:\s+(\d+) kB', Path('/proc/self/status').read_text())[1]) * 1024)"
    flags = [f"--input={tmp_path / 'model'}", f"--output={tmp_path / 'base'}"]
    done = subprocess.run([sys.executable, "-c", measured, *flags], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    peak, largest = int(done.stdout.split()[-1]), max(np.prod(one) * dtype.itemsize for dtype, one in names.values())
    stored = safetensors.read(tmp_path / "base" / "weights.safetensors")
    assert sum(tensor.nbytes for tensor in stored.values()) > 2.1e9
    assert peak <= 3 * largest + 2**30
    np.testing.assert_array_equal(stored["layers/feed_forward/up/kernel"][21], np.resize(noise, (5632, 2048)).T)
    # Ctrl-C in the middle of it leaves nothing behind.
    flags[1] = f"--output={tmp_path / 'below' / 'stopped'}"
    with subprocess.Popen([sys.executable, "-m", "retune_jax.convert", *flags], stderr=subprocess.PIPE) as process:
        while not (tmp_path / "below" / "stopped.new" / "weights.safetensors").exists():
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        assert process.wait() == 130 and not (tmp_path / "below").exists()
    shutil.rmtree(tmp_path / "model")


# What cannot be converted


def assert_refused(folder, tmp_path, *words, **options):
    output = tmp_path / "below" / "base"
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError) as caught:
        convert(folder, output, **options)
    message = str(caught.value)
    assert "\n" not in message and all(word in message for word in words), message
    assert sorted(tmp_path.rglob("*")) == before, "nothing is left behind"


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"model_type": "gemma"}, ["model_type", "gemma"]),
        ({"architectures": ["LlamaForSequenceClassification"]}, ["LlamaForSequenceClassification"]),
        ({"hidden_act": "gelu"}, ["hidden_act", "gelu"]),
        ({"attention_bias": True}, ["attention_bias"]),
        ({"mlp_bias": True}, ["mlp_bias"]),
        ({"quantization_config": {"bits": 4}}, ["quantization_config"]),
        ({"residual_multiplier": 2.0}, ["residual_multiplier"]),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 2.0}}, ["yarn"]),
        ({"rope_parameters": {"rope_type": "linear"}}, ["linear", "factor"]),
        ({"rope_parameters": {"rope_type": "default", "mrope_section": [1]}}, ["mrope_section"]),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, ["partial_rotary_factor"]),
        ({"hidden_size": None}, ["hidden_size"]),
        ({"num_key_value_heads": 3}, ["heads"]),
        ({"intermediate_size": 64}, ["down_proj", "48", "64"]),
        ({"num_hidden_layers": 1}, ["unknown tensor model.layers.1", "8 more"]),
        ({"num_hidden_layers": 3}, ["no tensor model.layers.2"]),
        ({"tie_word_embeddings": True}, ["lm_head"]),
        ({"vocab_size": 100}, ["384 pieces", "100"]),
    ],
)
def test_what_is_not_known_is_refused_by_name(changes, words, folder, tmp_path):
    edit(folder / "config.json", **changes)
    assert_refused(folder, tmp_path, *words)


def test_damaged_files_are_one_line_and_nothing_is_left_behind(folder, tmp_path):
    file = folder / "model.safetensors"
    whole_file = file.read_bytes()
    for spoilt in (whole_file[:-100], whole_file[:4], b"\xff" * 40, whole_file + b"more", whole_file[:300]):
        file.write_bytes(spoilt)
        assert_refused(folder, tmp_path, "model.safetensors", "damaged")
    nan = np.float32(np.nan).tobytes()
    file.write_bytes(whole_file[: -len(nan)] + nan)
    assert_refused(folder, tmp_path, "model.norm.weight", "finite")
    file.unlink()
    assert_refused(folder, tmp_path, "has no weights")
    (folder / "pytorch_model.bin").write_bytes(b"PK" + whole_file[:1000])
    assert_refused(folder, tmp_path, "pytorch_model.bin", "damaged")
    torch.save({"model.norm.weight": print}, folder / "pytorch_model.bin")
    assert_refused(folder, tmp_path, "pytorch_model.bin", "holds more than tensors")
    (folder / "config.json").write_text("{")
    assert_refused(folder, tmp_path, "config.json", "damaged")


def test_without_torch_its_files_are_one_line(released, folder, tmp_path, monkeypatch):
    torch.save(released[0].state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    monkeypatch.setitem(sys.modules, "torch", None)
    assert_refused(folder, tmp_path, "pytorch_model.bin", "pip install torch")


def test_shards_that_do_not_fit_their_index_are_named(released, folder, tmp_path):
    (folder / "model.safetensors").unlink()
    released[0].save_pretrained(folder, max_shard_size="20KB")
    shard = min(folder.glob("model-*.safetensors"))
    index = folder / "model.safetensors.index.json"
    places = json.loads(index.read_text())["weight_map"]
    edit(index, weight_map={name: place for name, place in places.items() if "norm" not in name})
    assert_refused(folder, tmp_path, "do not agree", "norm")
    edit(index, weight_map=places)
    shard.unlink()
    assert_refused(folder, tmp_path, shard.name)


def test_a_damaged_meta_folder_is_one_line(released, tmp_path, tokenizer_file):
    folder = write_meta(released[0], tmp_path / "llama" / "7B", tokenizer_file, 3 - 1)
    (folder / "consolidated.00.pth").rename(folder / "consolidated.02.pth")
    assert_refused(folder, tmp_path, "consolidated", "00")
    (folder / "consolidated.02.pth").rename(folder / "consolidated.00.pth")
    part = torch.load(folder / "consolidated.01.pth")
    torch.save({name: part[name] for name in part if "layers.1.attention.wo" not in name}, folder / "consolidated.01.pth")
    assert_refused(folder, tmp_path, "consolidated.01.pth", "layers.1.attention.wo.weight")
    torch.save(part | {"norm.weight": part["norm.weight"] + 1}, folder / "consolidated.01.pth")
    assert_refused(folder, tmp_path, "norm.weight", "different values")
    torch.save(part | {"output.weight": part["output.weight"][1:]}, folder / "consolidated.01.pth")
    assert_refused(folder, tmp_path, "output.weight", "shape")
    torch.save(part, folder / "consolidated.01.pth")
    edit(folder / "params.json", use_scaled_rope=True)
    assert_refused(folder, tmp_path, "use_scaled_rope")


def test_folders_that_are_none_are_told_apart(folder, tmp_path, tokenizer_file):
    assert_refused(tmp_path / "nowhere", tmp_path, "does not exist")
    assert_refused(tmp_path, tmp_path, "config.json", "params.json")
    convert(folder, tmp_path / "base")
    assert_refused(tmp_path / "base", tmp_path, "already", "--config.base")
    with pytest.raises(UserError, match="exists already"):
        convert(folder, tmp_path / "base")
    (folder / "tokenizer.model").unlink()
    assert_refused(folder, tmp_path, "tokenizer.model", "--tokenizer")
    convert(folder, tmp_path / "other", tokenizer=tokenizer_file)
    assert weights.load_base(str(tmp_path / "other"), "custom").tokenizer.vocab_size == VOCAB
