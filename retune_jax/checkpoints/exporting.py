"""From a run to what other programs read: a PEFT adapter, or the whole model with the adapter merged, as transformers has it.

The base is read from disk, a matrix at a time, and never put on a device: exporting takes the adapter's size in memory and a
few matrices.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from flax import traverse_util

from retune_jax import disk
from retune_jax.checkpoints import hugging_face, peft, runs, safetensors, weights
from retune_jax.checkpoints.importing import ORIGIN
from retune_jax.checkpoints.source import read_json, transposed
from retune_jax.errors import UserError
from retune_jax.models import quantize as quantizing
from retune_jax.models.lora import LoraConfig
from retune_jax.progress import bar

SHARD = 5 * 10**9  # bytes of one file


def export_peft(workdir: Path, output: Path):
    """Writes the adapter of a run as PEFT reads it."""
    config, base, lora, adapter = runs.load_adapter(workdir)
    if lora is None:
        raise UserError(f"{workdir} trained all weights and has no adapter: export it with --format=hf")
    with disk.fresh_folder(output) as fresh:
        peft.write(fresh, adapter, lora, base.shape.layers, _released(config.base))


def export_hf(workdir: Path, output: Path):
    """Writes the model of a run, its adapter merged, as transformers reads it, with its tokenizer."""
    config, base, lora, adapter = runs.load_adapter(workdir)
    write_hf(base, lora, adapter, output, config.quantize)


def write_hf(base: weights.Base, lora: LoraConfig | None, adapter: dict, output: Path, quantize: str = "none"):
    """Writes a base in transformers' files, with `adapter`, as `runs.load_adapter` gives it, merged into it.

    An adapter that was trained beside a quantised base is merged into what that means.
    """
    params = traverse_util.flatten_dict(base.params, sep="/")
    announced, places = {}, {}
    for name, theirs in hugging_face.NAMES.items():
        if name in params:
            layered = name.startswith("layers/")
            for layer in range(base.shape.layers if layered else 1):
                one = params[name].shape[1:] if layered else params[name].shape
                announced[theirs.format(layer)] = (np.dtype(params[name].dtype), one[::-1] if transposed(name) else one)
                places[theirs.format(layer)] = name, layer if layered else ...
    size = sum(dtype.itemsize * int(np.prod(shape)) for dtype, shape in announced.values())
    with disk.fresh_folder(output, size) as fresh, bar(total=size, unit="B", unit_scale=True, desc="export") as shown:

        def parts(theirs: str) -> Iterator[np.ndarray]:
            name, layer = places[theirs]
            part = params[name][layer]
            if name.startswith("layers/") and name.endswith("/kernel"):
                part = quantizing.rounded(quantize, part)
            if f"{name.removesuffix('/kernel')}/lora/a" in adapter:
                a, b = (adapter[f"{name.removesuffix('/kernel')}/lora/{matrix}"][layer] for matrix in "ab")
                part = (part.astype(np.float32) + lora.alpha / lora.rank * (a @ b)).astype(part.dtype)
            yield part.T if transposed(name) else part
            shown.update(part.nbytes)

        _write_shards(fresh, announced, parts)
        tokenizer = base.tokenizer
        config = hugging_face.config_of(base.shape, bos=tokenizer.bos, eos=tokenizer.eos)
        (fresh / hugging_face.CONFIG).write_text(json.dumps(config, indent=2) + "\n")
        shutil.copyfile(tokenizer.path, fresh / "tokenizer.model")
        described = hugging_face.tokenizer_config(tokenizer)
        (fresh / "tokenizer_config.json").write_text(json.dumps(described, indent=2) + "\n")


def _write_shards(folder: Path, announced: dict, parts):
    """One file, or several and their index where they would be more than `SHARD` bytes."""
    shards, sizes = [{}], [0]
    for name, (dtype, shape) in announced.items():
        size = dtype.itemsize * int(np.prod(shape))
        if sizes[-1] and sizes[-1] + size > SHARD:
            shards.append({})
            sizes.append(0)
        shards[-1][name] = (dtype, shape)
        sizes[-1] += size
    if len(shards) == 1:
        safetensors.write(folder / "model.safetensors", announced, parts, {"format": "pt"})
        return
    placed = {}
    for number, shard in enumerate(shards, start=1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        safetensors.write(folder / file, shard, parts, {"format": "pt"})
        placed |= dict.fromkeys(shard, file)
    index = {"metadata": {"total_size": sum(sizes)}, "weight_map": placed}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def _released(base: str) -> str | None:
    """The folder that a base was converted from, where it says so."""
    origin = Path(base).expanduser() / ORIGIN
    return read_json(origin).get("input") if origin.is_file() else None
