"""A model as another program wrote it: what importing asks of each format (hugging_face.py, meta.py)."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from retune_jax.errors import UserError
from retune_jax.models.llama import LlamaConfig


@dataclasses.dataclass(frozen=True)
class Source:
    """A model in another program's files.

    Attributes:
        shape: what they describe; its `param_dtype` is what they are stored in.
        tokenizer: the SentencePiece file; None where there is none.
        tensors: by that program's names, things with `shape` and `dtype` whose values `[...]` reads. Matrices are [out, in],
            and rotary positions turn the pairs (i, i + E/2) of a head, as here.
        names: this project's parameter to that program's name; `{}` stands for the layer.
    """

    shape: LlamaConfig
    tokenizer: Path | None
    tensors: dict[str, Any]
    names: Mapping[str, str]


def transposed(parameter: str) -> bool:
    """Whether other programs store this project's parameter the other way round: [out, in], not [in, out]."""
    return parameter.endswith("kernel") or parameter == "head"


def read_json(path: Path) -> dict:
    """A JSON object; a `UserError` says what is wrong with the file."""
    try:
        value = json.loads(path.read_text())
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} is damaged: it holds no JSON object")
    return value


def shape_of(path: Path, **fields) -> LlamaConfig:
    """The `LlamaConfig` that a file describes; a `UserError` names the file where its fields do not go together."""
    try:
        return LlamaConfig(**fields)
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: {error}") from error


def stored_dtype(tensors: dict[str, Any], names: Mapping[str, str]) -> str:
    """The dtype of a model's matrices: float32, or bfloat16 for all of 16 bits."""
    first = tensors.get(names["layers/attention/q/kernel"].format(0))
    return "float32" if first is not None and first.dtype.itemsize > 2 else "bfloat16"
