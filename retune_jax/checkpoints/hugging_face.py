"""Models in the files of Hugging Face's transformers: `config.json` and tensors in safetensors or `.bin`, in one file or many.

All that `config.json` says is either taken over, or known to change nothing in what is computed, or refused by name: a model
that is silently read as another one costs its user weeks.
"""

import dataclasses
import math
from pathlib import Path

from retune_jax.checkpoints import safetensors
from retune_jax.checkpoints.source import Source, read_json, shape_of, stored_dtype
from retune_jax.checkpoints.torch_files import TorchFile
from retune_jax.errors import UserError
from retune_jax.models.llama import LlamaConfig
from retune_jax.models.rope import KINDS, RopeScaling

CONFIG = "config.json"

NAMES = {
    "embedding": "model.embed_tokens.weight",
    "layers/attention_norm/scale": "model.layers.{}.input_layernorm.weight",
    "layers/attention/q/kernel": "model.layers.{}.self_attn.q_proj.weight",
    "layers/attention/k/kernel": "model.layers.{}.self_attn.k_proj.weight",
    "layers/attention/v/kernel": "model.layers.{}.self_attn.v_proj.weight",
    "layers/attention/o/kernel": "model.layers.{}.self_attn.o_proj.weight",
    "layers/feed_forward_norm/scale": "model.layers.{}.post_attention_layernorm.weight",
    "layers/feed_forward/gate/kernel": "model.layers.{}.mlp.gate_proj.weight",
    "layers/feed_forward/up/kernel": "model.layers.{}.mlp.up_proj.weight",
    "layers/feed_forward/down/kernel": "model.layers.{}.mlp.down_proj.weight",
    "norm/scale": "model.norm.weight",
    "head": "lm_head.weight",
}

FAMILY = {"llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM"}  # model_type to architecture

# Keys that have one value which this model computes with.
ONLY = {"hidden_act": ("silu", "swish"), "attention_bias": (False,), "mlp_bias": (False,), "is_decoder": (True, False)}

SHAPE_KEYS = (
    *("model_type", "architectures", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"),
    *("num_attention_heads", "num_key_value_heads", "head_dim", "rms_norm_eps", "tie_word_embeddings", "rope_theta"),
    *("rope_scaling", "rope_parameters", "sliding_window"),
)

# Keys that say how a model was trained, stored or is to be sampled, and nothing about what it computes.
NO_MATTER = (
    *("_name_or_path", "transformers_version", "torch_dtype", "dtype", "use_cache", "initializer_range", "auto_map"),
    *("bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id", "max_position_embeddings", "max_sequence_length"),
    *("pretraining_tp", "attention_dropout", "return_dict", "output_hidden_states", "output_attentions", "is_encoder_decoder"),
    *("id2label", "label2id", "problem_type", "chunk_size_feed_forward", "torchscript", "use_bfloat16"),
    *("max_length", "do_sample", "temperature", "top_p", "top_k", "_attn_implementation", "attn_implementation"),
)

ROPE_KEYS = ("rope_theta", "rope_type", "type", "factor", "low_freq_factor", "high_freq_factor", "partial_rotary_factor")
ORIGINAL = "original_max_position_embeddings"


def open_folder(folder: Path) -> Source:
    """The model in a folder of transformers' files."""
    shape = read_config(folder / CONFIG)
    tensors = open_tensors(folder, "model", "pytorch_model")
    tensors = {
        name: tensor for name, tensor in tensors.items() if not name.endswith("rotary_emb.inv_freq")
    }  # follows from theta
    dtype = stored_dtype(tensors, NAMES)
    shape = dataclasses.replace(shape, dtype=dtype, param_dtype=dtype)
    tokenizer = folder / "tokenizer.model"
    return Source(shape, tokenizer if tokenizer.is_file() else None, tensors, NAMES)


def open_tensors(folder: Path, safe_name: str, torch_name: str) -> dict:
    """The tensors by name, whichever way they are stored: safetensors or `.bin`, in one file or by an index of many."""
    for stem, ending, opened in (
        (safe_name, ".safetensors", safetensors.read),
        (torch_name, ".bin", lambda path: TorchFile(path).tensors),
    ):
        if (index := folder / f"{stem}{ending}.index.json").is_file():
            return _sharded(index, opened)
        if (whole := folder / f"{stem}{ending}").is_file():
            return opened(whole)
    raise UserError(f"{folder} has no weights (no {safe_name}.safetensors, no {torch_name}.bin and no index of several)")


def _sharded(index: Path, opened) -> dict:
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict):
        raise UserError(f"{index} is damaged: it has no weight_map")
    tensors = {}
    for file in sorted(set(places.values())):
        found = opened(index.parent / file)
        for name in found.keys() | {name for name, place in places.items() if place == file}:
            if name not in found or places.get(name) != file:
                raise UserError(f"{index.name} and {index.parent / file} do not agree on whether {name} is in it")
        tensors |= found
    return tensors


def read_config(path: Path) -> LlamaConfig:
    """The shape that a `config.json` describes, with transformers' defaults where it is silent; its dtype is bfloat16.

    Raises:
        UserError: names the key that is missing, or not known, or asks for what this model does not compute.
    """
    given = {key: value for key, value in read_json(path).items() if value is not None}
    kind = given.get("model_type")
    if kind not in FAMILY:
        raise UserError(f"{path}: model_type {kind!r} is not one of {', '.join(FAMILY)}")
    for name in given.get("architectures", ()):
        if name.lower() != FAMILY[kind].lower():
            raise UserError(f"{path}: architecture {name!r} is not {FAMILY[kind]}")
    for key, value in given.items():
        if key in ONLY and value not in ONLY[key]:
            raise UserError(f"{path}: {key}={value!r} is not what this model computes, which is {ONLY[key][0]!r}")
        if key not in (*ONLY, *SHAPE_KEYS, *NO_MATTER):
            raise UserError(f"{path}: key {key!r} is not known here (its value: {str(value)[:60]!r})")
    for key in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"):
        if key not in given:
            raise UserError(f"{path} has no {key}")
    heads = given["num_attention_heads"]
    # A key that is null is absent in transformers too, but one left out is the class's default.
    silent = {"mistral": {"num_key_value_heads": 8, "sliding_window": 4096}}.get(kind, {})
    silent = {key: value for key, value in silent.items() if key not in read_json(path)}
    theta, scaling = _rope(path, given)
    return shape_of(
        path,
        vocab_size=given["vocab_size"],
        layers=given["num_hidden_layers"],
        width=given["hidden_size"],
        heads=heads,
        kv_heads=given.get("num_key_value_heads", silent.get("num_key_value_heads", heads)),
        head_width=given.get("head_dim", given["hidden_size"] // heads),
        hidden=given["intermediate_size"],
        rope_theta=theta,
        norm_epsilon=given.get("rms_norm_eps", 1e-6),
        tied_embeddings=given.get("tie_word_embeddings", False),
        dtype="bfloat16",
        param_dtype="bfloat16",
        rope_scaling=scaling,
        sliding_window=given.get("sliding_window", silent.get("sliding_window")),
    )


def _rope(path: Path, given: dict) -> tuple[float, RopeScaling | None]:
    """Theta and scaling, as transformers 5 writes them (`rope_parameters`) or as those before did."""
    told = {"rope_theta": given.get("rope_theta", 10_000.0)} | given.get("rope_scaling", {}) | given.get("rope_parameters", {})
    for key in told:
        if key not in (*ROPE_KEYS, ORIGINAL):
            raise UserError(f"{path}: the rotary positions' {key!r} is not known here")
    if told.get("partial_rotary_factor", 1) != 1:
        raise UserError(
            f"{path}: partial_rotary_factor={told['partial_rotary_factor']} is not what this model computes, which is 1"
        )
    theta, kind = float(told["rope_theta"]), told.get("rope_type", told.get("type", "default"))
    if kind == "default":
        return theta, None
    if kind not in KINDS:
        raise UserError(f"{path}: rotary positions of type {kind!r} are not known here ({', '.join(KINDS)} are)")
    original = told.get(ORIGINAL, given.get("max_position_embeddings", 8192))
    try:
        if kind == "linear":
            return theta, RopeScaling(kind, float(told["factor"]))
        low, high = float(told["low_freq_factor"]), float(told["high_freq_factor"])
        return theta, RopeScaling(kind, float(told["factor"]), low, high, int(original))
    except KeyError as error:
        raise UserError(f"{path}: rotary positions of type {kind!r} without {error}") from error
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error


def config_of(shape: LlamaConfig, *, bos: int, eos: int) -> dict:
    """The `config.json` of a model, readable by transformers 4 and 5."""
    kind = "llama" if shape.sliding_window is None else "mistral"
    scaling = shape.rope_scaling
    rope = {"rope_type": scaling.kind, "factor": scaling.factor} if scaling else {"rope_type": "default"}
    if scaling and scaling.kind == "llama3":
        rope |= {"low_freq_factor": scaling.low_frequency_factor, "high_freq_factor": scaling.high_frequency_factor}
        rope[ORIGINAL] = scaling.original_context
    longest = shape.sliding_window or (math.ceil(scaling.factor * scaling.original_context) if scaling else 2048)
    return {
        "architectures": [FAMILY[kind]],
        "model_type": kind,
        "vocab_size": shape.vocab_size,
        "hidden_size": shape.width,
        "intermediate_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_width,
        "hidden_act": "silu",
        "rms_norm_eps": shape.norm_epsilon,
        "tie_word_embeddings": shape.tied_embeddings,
        "rope_theta": shape.rope_theta,
        "rope_scaling": rope if scaling else None,
        "rope_parameters": rope | {"rope_theta": shape.rope_theta},
        "max_position_embeddings": longest,
        "bos_token_id": bos,
        "eos_token_id": eos,
        "torch_dtype": shape.param_dtype,
    } | ({"sliding_window": shape.sliding_window} if kind == "mistral" else {"attention_bias": False, "mlp_bias": False})


def tokenizer_config(tokenizer) -> dict:
    """The `tokenizer_config.json` beside a `tokenizer.model`: transformers then cuts text as is done here.

    Without `add_prefix_space` it would put a space before every text, as LLaMA's own model file asks for.
    """
    processor = tokenizer.processor
    return {
        "tokenizer_class": "LlamaTokenizer",
        "bos_token": processor.id_to_piece(tokenizer.bos),
        "eos_token": processor.id_to_piece(tokenizer.eos),
        "unk_token": processor.id_to_piece(processor.unk_id()),
        "add_bos_token": True,
        "add_eos_token": False,
        "add_prefix_space": False,
        "legacy": False,
        "clean_up_tokenization_spaces": False,
    }
