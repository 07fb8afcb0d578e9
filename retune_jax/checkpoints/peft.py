"""Adapters in the files of Hugging Face's PEFT: `adapter_config.json` and `adapter_model.safetensors` (or `.bin`).

PEFT's A is [rank, in] and its B [out, rank]: what is here, turned round. Its scale is alpha / rank too, unless the adapter says
`use_rslora`: alpha / sqrt(rank), which comes in as another alpha.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from retune_jax.checkpoints import hugging_face, safetensors
from retune_jax.checkpoints.source import read_json
from retune_jax.errors import UserError
from retune_jax.models.llama import LlamaConfig
from retune_jax.models.lora import PROJECTIONS, LoraConfig

CONFIG, STEM = "adapter_config.json", "adapter_model"

# Of a target, the place of its weights here; `{}` of the names below is A or B.
PLACES = {name: f"layers/{'attention' if name in 'qkvo' else 'feed_forward'}/{name}" for name in PROJECTIONS}

KNOWN = ("peft_type", "r", "lora_alpha", "lora_dropout", "target_modules", "bias", "use_rslora", "init_lora_weights")
# What is said with these changes nothing in what a trained adapter computes; nor does anything that is null, false or empty.
NO_MATTER = (
    *("task_type", "base_model_name_or_path", "inference_mode", "peft_version", "revision", "auto_mapping", "megatron_core"),
    *("qalora_group_size", "eva_config", "layers_pattern"),
)
UNCHANGED_BASE = (True, False, "gaussian", "orthogonal", "eva")  # ways to begin that leave the base's weights as they are


def their_name(target: str, layer: int, matrix: str) -> str:
    """PEFT's name of a matrix, "A" or "B", of a target's adapter."""
    weight = hugging_face.NAMES[f"{PLACES[target]}/kernel"].format(layer)
    return f"base_model.model.{weight.removesuffix('.weight')}.lora_{matrix}.weight"


def write(folder: Path, adapter: Mapping[str, np.ndarray], lora: LoraConfig, layers: int, base: str | None):
    """Writes an adapter into a folder that exists.

    Args:
        folder: the folder.
        adapter: `layers/attention/q/lora/a` to float32 [layers, in, rank], and so on.
        lora: its configuration.
        layers: of the model.
        base: where PEFT finds the base model by itself, or None.
    """
    tensors = {
        their_name(target, layer, matrix): adapter[f"{PLACES[target]}/lora/{matrix.lower()}"][layer].T
        for layer in range(layers)
        for target in lora.targets
        for matrix in "AB"
    }
    announced = {name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()}
    safetensors.write(folder / f"{STEM}.safetensors", announced, lambda name: [tensors[name]], {"format": "pt"})
    written = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": lora.dropout,
        "target_modules": [f"{target}_proj" for target in lora.targets],
        "bias": "none",
        "inference_mode": True,
    }
    (folder / CONFIG).write_text(json.dumps(written, indent=2) + "\n")


def read(folder: Path, shape: LlamaConfig) -> tuple[LoraConfig, dict[str, np.ndarray]]:
    """Reads an adapter for a model of a shape.

    Returns:
        Its configuration, and its weights as `write` takes them.

    Raises:
        UserError: names what is missing, misshapen, too much, or not known.
    """
    lora = _config(folder / CONFIG)
    tensors = hugging_face.open_tensors(folder, STEM, STEM)
    widths = {
        "attention": (shape.width, shape.heads * shape.head_width),
        "feed_forward": (shape.width, shape.hidden),
    }
    adapter, used = {}, set()
    for target in lora.targets:
        narrow, wide = widths[PLACES[target].split("/")[1]]
        wide = shape.kv_heads * shape.head_width if target in "kv" else wide
        into, out = (wide, narrow) if target in ("o", "down") else (narrow, wide)
        for matrix, size in (("A", (lora.rank, into)), ("B", (out, lora.rank))):
            stacked = []
            for layer in range(shape.layers):
                name = their_name(target, layer, matrix)
                if name not in tensors:
                    raise UserError(f"{folder} has no tensor {name}")
                if tensors[name].shape != size:
                    have = list(tensors[name].shape)
                    raise UserError(f"{folder}: {name} is of shape {have}, for this base it would be {list(size)}")
                stacked.append(tensors[name][...].astype(np.float32).T)
                if not np.isfinite(stacked[-1]).all():
                    raise UserError(f"{folder}: {name} holds values that are no finite numbers")
                used.add(name)
            adapter[f"{PLACES[target]}/lora/{matrix.lower()}"] = np.stack(stacked)
    if extra := tensors.keys() - used:
        raise UserError(f"{folder} has an unknown tensor {min(extra)}")
    return lora, adapter


def _config(path: Path) -> LoraConfig:
    given = read_json(path)
    if given.get("peft_type") != "LORA":
        raise UserError(f"{path}: peft_type {given.get('peft_type')!r} is not LORA")
    for key in ("r", "lora_alpha", "target_modules"):
        if not given.get(key):
            raise UserError(f"{path} has no {key}")
    if given.get("bias", "none") != "none":
        raise UserError(f"{path}: bias={given['bias']!r}: adapters with biases are not known here")
    if (start := given.get("init_lora_weights", True)) not in UNCHANGED_BASE:
        raise UserError(f"{path}: init_lora_weights={start!r} changes the base's weights too, which is not known here")
    for key, value in given.items():
        if value and key not in (*KNOWN, *NO_MATTER):
            raise UserError(f"{path}: key {key!r} is not known here (its value: {str(value)[:60]!r})")
    modules = given["target_modules"]
    if not isinstance(modules, list):
        raise UserError(f"{path}: target_modules={modules!r} is a pattern; a list of names is needed")
    named = {f"{name}_proj": name for name in PROJECTIONS}
    if unknown := [module for module in modules if module.split(".")[-1] not in named]:
        raise UserError(f"{path}: target module {unknown[0]!r} is not one of {', '.join(named)}")
    targets = {named[module.split(".")[-1]] for module in modules}
    rank, alpha = given["r"], float(given["lora_alpha"])
    if given.get("use_rslora"):
        alpha *= math.sqrt(rank)
    ordered = tuple(name for name in PROJECTIONS if name in targets)
    return LoraConfig(rank, alpha, float(given.get("lora_dropout", 0)), ordered)
