"""Safetensors files, read and written one tensor, or one part of a tensor, at a time.

The format (https://github.com/huggingface/safetensors): eight bytes that hold the length of the header, the header, which is
JSON of `{name: {"dtype", "shape", "data_offsets": [begin, end]}}`, and the tensors' bytes, little-endian, row by row.

Written here rather than with the library of that name, because that one builds a whole file in memory and reads through a
mapping that stays resident; a 13 B model has to pass through a machine that holds one matrix of it.
"""

import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from retune_jax.errors import UserError

DTYPES = {
    "F64": np.dtype("float64"),
    "F32": np.dtype("float32"),
    "F16": np.dtype("float16"),
    "BF16": np.dtype(jnp.bfloat16),
    "I64": np.dtype("int64"),
    "I32": np.dtype("int32"),
    "I16": np.dtype("int16"),
    "I8": np.dtype("int8"),
    "U8": np.dtype("uint8"),
    "BOOL": np.dtype("bool"),
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
LONGEST_HEADER = 100_000_000  # the library's own limit


class Tensor:
    """A tensor on disk: its shape and dtype are known, its values are read when it is indexed (or made an array).

    Attributes:
        shape, dtype: as of a NumPy array.
    """

    def __init__(self, path: Path, name: str, dtype: np.dtype, shape: tuple[int, ...], offset: int):
        self.path, self.name, self.dtype, self.shape, self.offset = path, name, dtype, shape, offset

    def __getitem__(self, index) -> np.ndarray:
        """A copy of the part that `index` (slices and numbers) asks for. Reads what it needs and keeps no file open."""
        if not math.prod(self.shape):
            return np.empty(self.shape, self.dtype)[index]
        try:
            if index is ... or index == (slice(None),) * len(self.shape):
                whole = np.fromfile(self.path, self.dtype, math.prod(self.shape), offset=self.offset)
                return whole.reshape(self.shape)  # fewer values than that: the file was cut after it was opened
            if len(self.shape) == 3 and isinstance(index, tuple) and isinstance(index[0], slice):
                return self._layers(range(*index[0].indices(self.shape[0])), index[1:])
            return np.array(np.memmap(self.path, self.dtype, "r", self.offset, self.shape)[index])
        except (OSError, ValueError) as error:
            raise UserError(f"{self.path}: {self.name} cannot be read: {error}") from error

    def _layers(self, layers: range, index: tuple) -> np.ndarray:
        """Parts of several layers, each through a mapping of its own: what a mapping has touched stays in memory with it."""
        first = self[(layers[0], *index)]
        parts = np.empty((len(layers), *first.shape), self.dtype)
        parts[0] = first
        for place, layer in enumerate(layers[1:], start=1):
            parts[place] = self[(layer, *index)]
        return parts

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return np.asarray(self[...], dtype)

    @property
    def nbytes(self) -> int:
        """Bytes of all values."""
        return math.prod(self.shape) * self.dtype.itemsize


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name; reads the header only.

    Raises:
        UserError: says in what way the file is damaged, or what it holds that is not known.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or not 2 <= length <= min(size - 8, LONGEST_HEADER):
                raise UserError(f"{path} is damaged, or no safetensors file: its header does not fit into it")
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        tensors, expected = {}, 0
        for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
            if entry["dtype"] not in DTYPES:
                raise UserError(f"{path}: {name} is of type {entry['dtype']}, which is not known here")
            begin, end = entry["data_offsets"]
            tensor = Tensor(path, name, DTYPES[entry["dtype"]], tuple(entry["shape"]), 8 + length + begin)
            if begin != expected or end - begin != tensor.nbytes:
                raise UserError(f"{path} is damaged: {name} does not lie where its shape puts it")
            tensors[name], expected = tensor, end
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path} is damaged: its header is not one of a safetensors file") from error
    if 8 + length + expected != size:
        raise UserError(f"{path} is damaged: {size:,} bytes long, its header describes {8 + length + expected:,}")
    return tensors


def write(
    path: Path,
    tensors: dict[str, tuple[np.dtype, tuple[int, ...]]],
    parts: Callable[[str], Iterable[np.ndarray]],
    metadata: dict[str, str] | None = None,
):
    """Writes a file in which no tensor has to be whole in memory at any time.

    Args:
        path: the file; may not be read before this returns.
        tensors: name to dtype and shape, in the order of the file.
        parts: gives, by name, the arrays that make up a tensor along its first axis, in order.
        metadata: strings to keep in the header; transformers wants `{"format": "pt"}`.
    """
    header: dict[str, object] = {"__metadata__": metadata} if metadata else {}
    offset = 0
    for name, (dtype, shape) in tensors.items():
        size = math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": NAMES[dtype], "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # so that the tensors are aligned
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, (dtype, shape) in tensors.items():
            written = 0
            for part in parts(name):
                if part.dtype != dtype:
                    raise TypeError(f"{name}: a part of {part.dtype}, announced as {dtype}")
                written += part.size
                file.write(np.ascontiguousarray(part).reshape(-1).view(np.uint8).data)
            if written != math.prod(shape):
                raise ValueError(f"{name}: {written} values, announced as {math.prod(shape)}")
