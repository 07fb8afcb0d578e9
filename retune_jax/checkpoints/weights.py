"""Base models: the folder that holds one, and the model that a configuration asks for.

A base is a folder with three files:

    model.json        the fields of `LlamaConfig`
    tokenizer.model   SentencePiece
    weights.npz       one array a parameter, named by its path: `layers/attention/q/kernel`; no pickles

The one of the tiny preset ships in the package. NumPy has no bfloat16: such an array is stored as its 16 bits under
`NAME:bfloat16`. A base never holds an adapter; those belong to runs.
"""

import dataclasses
import json
import shutil
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx, traverse_util

from retune_jax import tokenizer as tokenizers
from retune_jax.errors import UserError
from retune_jax.models import presets, sharding
from retune_jax.models.llama import Llama, LlamaConfig
from retune_jax.models.lora import LoraConfig, LoRAParam

TINY = Path(__file__).parents[1] / "assets" / "tiny"
BFLOAT16 = ":bfloat16"


@dataclasses.dataclass(frozen=True)
class Base:
    """A base model in host memory.

    Attributes:
        shape: what to build.
        params: a nested dict of NumPy arrays, or None for weights yet to be drawn.
        tokenizer: the one that the weights were trained with.
    """

    shape: LlamaConfig
    params: dict | None
    tokenizer: tokenizers.Tokenizer


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
    folder = TINY if base == "tiny" else Path(base).expanduser()
    for name in ("model.json", "tokenizer.model", "weights.npz"):
        if not (folder / name).is_file():
            raise UserError(f"config.base: {folder} is not a folder of base weights (it has no {name})")
    try:
        shape = LlamaConfig(**json.loads((folder / "model.json").read_text()))
    except (TypeError, ValueError) as error:
        raise UserError(f"{folder / 'model.json'}: {error}") from error
    try:
        # Opened here, because NumPy leaves a file that is no archive open.
        with (folder / "weights.npz").open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            flat = dict(_decoded(name, arrays[name]) for name in arrays)
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise UserError(f"{folder / 'weights.npz'} cannot be read: {error}") from error
    tokenizer = tokenizers.Tokenizer(folder / "tokenizer.model")
    if tokenizer.vocab_size > shape.vocab_size:
        raise UserError(f"{folder}: {tokenizer.vocab_size} pieces, but embeddings for {shape.vocab_size} only")
    return Base(shape, traverse_util.unflatten_dict(flat, sep="/"), tokenizer)


def save_base(folder: Path, shape: LlamaConfig, params: dict, tokenizer_model: Path):
    """Writes a base folder, in one go.

    Args:
        folder: must not exist.
        shape: the model's.
        params: a nested dict of arrays, without adapters.
        tokenizer_model: the file to copy.
    """
    if folder.exists():
        raise UserError(f"{folder} exists already")
    fresh = folder.with_name(folder.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)  # left by an interrupted call
    fresh.mkdir(parents=True)
    (fresh / "model.json").write_text(json.dumps(dataclasses.asdict(shape), indent=2) + "\n")
    shutil.copyfile(tokenizer_model, fresh / "tokenizer.model")
    flat = traverse_util.flatten_dict(params, sep="/")
    np.savez(fresh / "weights.npz", **dict(_encoded(name, np.asarray(array)) for name, array in flat.items()))
    fresh.replace(folder)


def lora_config(config) -> LoraConfig | None:
    """The adapter that `config.lora` describes; None at rank 0."""
    if not config.rank:
        return None
    return LoraConfig(config.rank, config.alpha, config.dropout, tuple(config.targets.split(",")))


def assemble(
    base: Base, lora: LoraConfig | None, *, remat: str, context_length: int | None, seed: int, mesh: jax.sharding.Mesh
) -> Llama:
    """The model on the mesh: the base's weights, and an adapter fresh from `seed`, laid out by models/sharding.py.

    Nothing is drawn that is not used: XLA leaves the base's random weights out where only the adapter is asked for.
    """

    def initial(key):
        return Llama(base.shape, lora, remat=remat, context_length=context_length, rngs=nnx.Rngs(params=key))

    key = jax.random.key(seed)
    graphdef, adapter, weights = nnx.split(nnx.eval_shape(initial, key), LoRAParam, ...)
    adapter, weights = nnx.to_pure_dict(adapter), nnx.to_pure_dict(weights)

    def drawn(filter, like):
        draw = jax.jit(lambda key: nnx.to_pure_dict(nnx.state(initial(key), filter)), out_shardings=like)
        return draw(key)

    adapter = drawn(LoRAParam, sharding.shardings(adapter, mesh))
    where = sharding.shardings(weights, mesh)
    if base.params is None:
        weights = drawn(nnx.Not(LoRAParam), where)
    else:
        _check_shapes(base.params, weights)
        weights = jax.device_put(base.params, where)
    return nnx.merge(graphdef, adapter, weights)


def _check_shapes(params: dict, expected: dict):
    flat, wanted = traverse_util.flatten_dict(params, sep="/"), traverse_util.flatten_dict(expected, sep="/")
    for name in wanted.keys() | flat.keys():
        have, want = getattr(flat.get(name), "shape", None), getattr(wanted.get(name), "shape", None)
        if have != want:
            raise UserError(f"base weights: {name} is {have or 'missing'}, model.json asks for {want or 'none'}")


def _encoded(name: str, array: np.ndarray) -> tuple[str, np.ndarray]:
    return (name + BFLOAT16, array.view(np.uint16)) if array.dtype == jnp.bfloat16 else (name, array)


def _decoded(name: str, array: np.ndarray) -> tuple[str, np.ndarray]:
    return (name.removesuffix(BFLOAT16), array.view(jnp.bfloat16)) if name.endswith(BFLOAT16) else (name, array)
