"""Base models: the folder that holds one, and the model that a configuration asks for.

A base is a folder with three files:

    model.json           the fields of `LlamaConfig`
    tokenizer.model      SentencePiece
    weights.safetensors  one tensor a parameter, named by its path: `layers/attention/q/kernel`

The one of the tiny preset ships in the package; `convert.py` makes one of released weights. Values are read when they are
placed on the mesh, each device's part for itself, so that a host never holds the model beside its devices. A base never holds
an adapter; those belong to runs.

An older base has `weights.npz` instead, with its bfloat16 arrays as 16 bits under `NAME:bfloat16`; it is still read.
"""

import dataclasses
import hashlib
import json
import shutil
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx, traverse_util

from retune_jax import disk
from retune_jax import tokenizer as tokenizers
from retune_jax.checkpoints import safetensors
from retune_jax.errors import UserError
from retune_jax.models import presets, sharding
from retune_jax.models import quantize as quantizing
from retune_jax.models.llama import Llama, LlamaConfig
from retune_jax.models.lora import LoraConfig, LoRAParam
from retune_jax.models.rope import RopeScaling

TINY = Path(__file__).parents[1] / "assets" / "tiny"
SHAPE, TOKENIZER, WEIGHTS, ARCHIVE = "model.json", "tokenizer.model", "weights.safetensors", "weights.npz"
BFLOAT16 = ":bfloat16"


@dataclasses.dataclass(frozen=True)
class Base:
    """A base model, not yet on any device.

    Attributes:
        shape: what to build.
        params: a nested dict of `safetensors.Tensor`s, or of NumPy arrays; None for weights yet to be drawn.
        tokenizer: the one that the weights were trained with.
        fingerprint: of the files (see `fingerprint`); None where there are none.
    """

    shape: LlamaConfig
    params: dict | None
    tokenizer: tokenizers.Tokenizer
    fingerprint: str | None = None


def load_base(base: str, model: str) -> Base:
    """The base called `base`: `tiny`, which ships, `random`, for weights yet to be drawn, or a folder.

    Args:
        base: `config.base`.
        model: `config.model`, the preset whose shape random weights take.

    Raises:
        UserError: the folder is no base, or its files do not fit together.
    """
    if base == "random":
        return Base(presets.get(model), None, tokenizers.tiny())
    folder = TINY if base == "tiny" else disk.folder(base, "config.base")
    stored = ARCHIVE if not (folder / WEIGHTS).exists() and (folder / ARCHIVE).exists() else WEIGHTS
    for name in (SHAPE, TOKENIZER, stored):
        if not (folder / name).is_file():
            raise UserError(f"config.base: {folder} is not a folder of base weights (it has no {name})")
    shape = read_shape(folder / SHAPE)
    check_shape(folder, shape, model)
    flat = safetensors.read(folder / WEIGHTS) if stored == WEIGHTS else _archive(folder / ARCHIVE)
    tokenizer = tokenizers.Tokenizer(folder / TOKENIZER)
    if tokenizer.vocab_size > shape.vocab_size:
        raise UserError(f"{folder}: {tokenizer.vocab_size} pieces, but embeddings for {shape.vocab_size} only")
    return Base(shape, traverse_util.unflatten_dict(flat, sep="/"), tokenizer, fingerprint(folder))


def check_shape(folder: Path, shape: LlamaConfig, model: str):
    """Refuses a base whose sizes are not those of the model that the configuration names."""
    if model == presets.CUSTOM:
        return
    for name in ("layers", "width", "heads", "kv_heads", "head_width", "hidden"):
        have, want = getattr(shape, name), getattr(presets.get(model), name)
        if have != want:
            raise UserError(
                f"config.base: {folder} is no {model} ({name} {have}, not {want}); "
                f"name the model as the config file's argument, model={presets.CUSTOM} for any shape"
            )


def fingerprint(folder: Path) -> str:
    """A short text that changes with the contents of a base folder, and takes no longer for 7B than for tiny.

    Of the weights, it reads the beginning, where names, shapes and places stand, and stretches all over the file (all of it, up
    to 16 MiB): training, another seed or another precision changes every part of the file.
    """
    digest = hashlib.sha256()
    for name in (SHAPE, TOKENIZER):
        digest.update((folder / name).read_bytes())
    path = folder / WEIGHTS if (folder / WEIGHTS).exists() else folder / ARCHIVE
    size, stretch, count = path.stat().st_size, 2**16, 256
    digest.update(f"{path.name} {size}\n".encode())
    with path.open("rb") as file:
        step = max(stretch, size // count)
        for start in range(0, size, step):
            file.seek(start)
            digest.update(file.read(stretch))
    return digest.hexdigest()[:32]


def read_shape(path: Path) -> LlamaConfig:
    """Reads a `model.json`."""
    try:
        fields = json.loads(path.read_text())
        if fields.get("rope_scaling"):
            fields["rope_scaling"] = RopeScaling(**fields["rope_scaling"])
        return LlamaConfig(**fields)
    except (TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: {error}") from error


def write_shape(shape: LlamaConfig, path: Path):
    """Writes a `model.json`; what the model has not is left out."""
    fields = {name: value for name, value in dataclasses.asdict(shape).items() if value is not None}
    path.write_text(json.dumps(fields, indent=2) + "\n")


def save_base(folder: Path, shape: LlamaConfig, params: dict, tokenizer_model: Path):
    """Writes a base folder, in one go.

    Args:
        folder: must not exist.
        shape: the model's.
        params: a nested dict of arrays, without adapters.
        tokenizer_model: the file to copy.
    """
    flat = traverse_util.flatten_dict(params, sep="/")
    with disk.fresh_folder(folder) as fresh:
        write_shape(shape, fresh / SHAPE)
        shutil.copyfile(tokenizer_model, fresh / TOKENIZER)
        announced = {name: (np.dtype(array.dtype), array.shape) for name, array in flat.items()}
        safetensors.write(fresh / WEIGHTS, announced, lambda name: [np.asarray(flat[name])])


def _archive(path: Path) -> dict[str, np.ndarray]:
    try:
        # Opened here, because NumPy leaves a file that is no archive open.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return dict(_decoded(name, arrays[name]) for name in arrays)
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} cannot be read: {error}") from error


def lora_config(config) -> LoraConfig | None:
    """The adapter that `config.lora` describes; None at rank 0."""
    if not config.rank:
        return None
    return LoraConfig(config.rank, config.alpha, config.dropout, tuple(config.targets.split(",")))


def assemble(
    base: Base,
    lora: LoraConfig | None,
    *,
    remat: str,
    context_length: int | None,
    seed: int,
    mesh: jax.sharding.Mesh,
    attention: str = "xla",
    quantize: str = "none",
    fresh: bool = True,
) -> Llama:
    """The model on the mesh: the base's weights, and an adapter fresh from `seed`, laid out by models/sharding.py.

    Nothing is drawn that is not used: XLA leaves the base's random weights out where only the adapter is asked for. Where that
    is not to be `fresh`, it has shapes and shardings only, for a checkpoint to fill in.
    """

    def initial(key, quantize=quantize):
        how = {"remat": remat, "context_length": context_length, "attention": attention, "quantize": quantize}
        return Llama(base.shape, lora, **how, rngs=nnx.Rngs(params=key))

    key = jax.random.key(seed)
    graphdef, adapter, weights = nnx.split(nnx.eval_shape(initial, key), LoRAParam, ...)  # type: ignore[misc]
    adapter, weights = nnx.to_pure_dict(adapter), nnx.to_pure_dict(weights)

    def drawn(filter, like):
        draw = jax.jit(lambda key: nnx.to_pure_dict(nnx.state(initial(key), filter)), out_shardings=like)
        return draw(key)

    places = sharding.shardings(adapter, mesh)
    if fresh:
        adapter = drawn(LoRAParam, places)
    else:
        adapter = jax.tree.map(lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), adapter, places)
    where = sharding.shardings(weights, mesh)
    if base.params is None:
        weights = drawn(nnx.Not(LoRAParam), where)
    else:
        whole = nnx.eval_shape(lambda key: initial(key, "none"), key)
        _check_shapes(base.params, nnx.to_pure_dict(nnx.state(whole, nnx.Not(LoRAParam))))
        weights = _held(base.params, where, quantize)
    return nnx.merge(graphdef, adapter, weights)


def _held(stored, where, quantize: str):
    """The arrays of a base on the mesh, one at a time; a kernel takes the place of a dict where it is to be quantised."""
    if isinstance(stored, dict):
        return {name: _held(stored[name], where[name], quantize) for name in where}
    if isinstance(where, dict):
        return jax.tree.map(_placed, quantizing.parts(quantize, stored), where)
    return _placed(stored, where)


def _placed(stored, sharding) -> jax.Array:
    """An array on the mesh, of what is on disk: each part is read once, however many devices hold it."""
    parts = {}

    def part(index):
        if (key := str(index)) not in parts:
            parts[key] = stored[index]
        return parts[key]

    array = jax.make_array_from_callback(stored.shape, sharding, part)
    return jax.block_until_ready(array)  # until then, what was read stays on the host too


def _check_shapes(params: dict, expected: dict):
    flat, wanted = traverse_util.flatten_dict(params, sep="/"), traverse_util.flatten_dict(expected, sep="/")
    for name in sorted(wanted.keys() | flat.keys()):
        have, want = ((x.shape, str(x.dtype)) if x is not None else None for x in (flat.get(name), wanted.get(name)))
        if have != want:
            have, want = (f"{shown[1]} {list(shown[0])}" if shown else None for shown in (have, want))
            raise UserError(f"base weights: {name} is {have or 'missing'}, model.json asks for {want or 'none'}")


def _decoded(name: str, array: np.ndarray) -> tuple[str, np.ndarray]:
    return (name.removesuffix(BFLOAT16), array.view(jnp.bfloat16)) if name.endswith(BFLOAT16) else (name, array)
