"""From another program's model to a base folder, one layer's matrix at a time; and from PEFT's adapter to a run's folder.

The host holds about three copies of the largest matrix at once (as read, as cast, as turned round), however large the model.
"""

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx, traverse_util
from ml_collections import ConfigDict

from retune_jax import config as recipes
from retune_jax import config_file, disk
from retune_jax import tokenizer as tokenizers
from retune_jax.checkpoints import hugging_face, meta, peft, runs, safetensors, weights
from retune_jax.checkpoints.source import Source, transposed
from retune_jax.errors import UserError
from retune_jax.models.llama import Llama, LlamaConfig
from retune_jax.models.lora import LoraConfig
from retune_jax.progress import bar
from retune_jax.training import optimizer

ORIGIN = "origin.json"  # in a base folder: where it came from
LAYERS = "layers/"


def open_model(folder: Path) -> Source:
    """The model in a folder, in whichever of the known formats it is; a `UserError` says what the folder is not."""
    if (folder / weights.SHAPE).is_file():
        raise UserError(f"{folder} is a folder of base weights already: use it as --config.base={folder}")
    if (folder / hugging_face.CONFIG).is_file():
        return hugging_face.open_folder(folder)
    if (folder / meta.PARAMS).is_file():
        return meta.open_folder(folder)
    missing = "does not exist" if not folder.exists() else f"has neither {hugging_face.CONFIG} nor {meta.PARAMS}"
    raise UserError(f"--input: {folder} {missing}: it is no model of Hugging Face's or Meta's")


def import_base(folder: Path, output: Path, *, dtype: str | None, tokenizer: Path | None) -> LlamaConfig:
    """Writes the model in `folder` as a base folder, and returns its shape.

    Args:
        folder: a model in Hugging Face's or Meta's files.
        output: the base folder; must not exist.
        dtype: to store the weights in, and to compute in; None: float32 where they are, otherwise bfloat16.
        tokenizer: the SentencePiece file; None: the one in the folder.

    Raises:
        UserError: one line; nothing is left behind then.
    """
    if output.exists():
        raise UserError(f"{output} exists already")
    source = open_model(folder)
    shape = dataclasses.replace(source.shape, dtype=dtype, param_dtype=dtype) if dtype else source.shape
    tokenizer = tokenizer or source.tokenizer
    if tokenizer is None:
        raise UserError(f"{folder} has no tokenizer.model: give the model's SentencePiece file as --tokenizer=FILE")
    if (pieces := tokenizers.Tokenizer(tokenizer).vocab_size) > shape.vocab_size:
        raise UserError(f"{tokenizer} has {pieces} pieces, the model embeddings for {shape.vocab_size} only")
    expected = parameters(shape)
    check(folder, source, expected)
    size = sum(dtype.itemsize * int(np.prod(shape)) for dtype, shape in expected.values())
    with disk.fresh_folder(output, size) as fresh, bar(total=size, unit="B", unit_scale=True, desc="convert") as shown:

        def parts(parameter: str) -> Iterator[np.ndarray]:
            for part in read(folder, source, parameter, *expected[parameter]):
                yield part
                shown.update(part.nbytes)

        weights.write_shape(shape, fresh / weights.SHAPE)
        shutil.copyfile(tokenizer, fresh / weights.TOKENIZER)
        (fresh / ORIGIN).write_text(json.dumps({"input": str(folder.absolute())}) + "\n")
        safetensors.write(fresh / weights.WEIGHTS, expected, parts)
    return shape


def import_adapter(folder: Path, output: Path, config: ConfigDict) -> LoraConfig:
    """Writes PEFT's adapter in `folder` as a run of 0 steps, which can be evaluated, put to solve, and trained further.

    Args:
        folder: PEFT's files.
        output: the run's folder; must not exist.
        config: the run's configuration, whose base the adapter belongs to; `lora` is set from the adapter.

    Raises:
        UserError: one line; nothing is left behind then.
    """
    if output.exists():
        raise UserError(f"{output} exists already")
    recipes.validate(config)
    config.base = config_file.whole_path(config.base)
    base = weights.load_base(config.base, config.model)
    lora, adapter = peft.read(folder, base.shape)
    fields = {"rank": lora.rank, "alpha": lora.alpha, "dropout": lora.dropout, "targets": ",".join(lora.targets)}
    config.lora.update(fields)
    params = jax.tree.map(jnp.asarray, traverse_util.unflatten_dict(adapter, sep="/"))
    with disk.fresh_folder(output) as fresh:
        config_file.write(config, fresh / runs.CONFIG)
        runs.keep_origin(fresh, base)
        checkpoints = runs.Checkpoints(fresh, keep=config.train.keep)
        adamw = optimizer.make_optimizer(config.train)
        # No place in the data: training begins at its beginning.
        checkpoints.save(0, params=params, optimizer=adamw.init(params), data={}, config=config)
        checkpoints.close()
    return lora


def parameters(shape: LlamaConfig) -> dict[str, tuple[np.dtype, tuple[int, ...]]]:
    """Dtype and shape of each parameter of a base, by its path."""
    model = nnx.eval_shape(lambda: Llama(shape, None, remat="none", rngs=nnx.Rngs(0)))
    flat = traverse_util.flatten_dict(nnx.to_pure_dict(nnx.state(model)), sep="/")
    return {name: (np.dtype(leaf.dtype), leaf.shape) for name, leaf in flat.items()}


def pieces(source: Source, parameter: str, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """The tensors that make up a parameter, in order: names and shapes as they should be in the source."""
    layered = parameter.startswith(LAYERS)
    one = shape[1:] if layered else shape
    one = one[::-1] if transposed(parameter) else one
    return {source.names[parameter].format(layer): one for layer in range(shape[0] if layered else 1)}


def check(folder: Path, source: Source, expected: dict):
    """Refuses a source that lacks a tensor, or has one of another shape, or one more than the model has."""
    wanted = {}
    for parameter, (_, shape) in expected.items():
        wanted |= pieces(source, parameter, shape)
    extra = source.tensors.keys() - wanted.keys()
    head = source.names["head"]
    if "head" not in expected and head in extra:  # some programs write tied embeddings twice
        extra.remove(head)
        if not np.array_equal(source.tensors[head][...], source.tensors[source.names["embedding"]][...]):
            raise UserError(f"{folder}: {head} is not the embedding, with which the configuration ties it")
    for what, names in (("no tensor", wanted.keys() - source.tensors.keys()), ("an unknown tensor", extra)):
        if names:
            more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
            raise UserError(f"{folder} has {what} {min(names)}{more}")
    for name, shape in wanted.items():
        if source.tensors[name].shape != shape:
            have = list(source.tensors[name].shape)
            raise UserError(f"{folder}: {name} is of shape {have}, its configuration asks for {list(shape)}")
        if not jnp.issubdtype(source.tensors[name].dtype, jnp.floating):
            raise UserError(f"{folder}: {name} is of type {source.tensors[name].dtype}; quantised weights are not read")


def read(folder: Path, source: Source, parameter: str, dtype: np.dtype, shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    """The parts of a parameter along its first axis, as a base stores them."""
    for name in pieces(source, parameter, shape):
        part = source.tensors[name][...]
        part = part.astype(dtype, copy=False)
        if not np.isfinite(part).all():
            raise UserError(f"{folder}: {name} holds values that are no finite numbers (as {dtype})")
        yield np.ascontiguousarray(part.T) if transposed(parameter) else part
