"""Models in Meta's own files: `params.json` and `consolidated.00.pth`, `consolidated.01.pth`, …

A model of more than one file is cut for as many GPUs: each matrix along its outputs or along its inputs, the norms repeated.
Rotary positions turn neighbouring entries of a head (2i, 2i + 1) there, and (i, i + E/2) here: the rows of the query and key
matrices are put into that order.
"""

import re
from pathlib import Path

import numpy as np

from retune_jax.checkpoints import safetensors
from retune_jax.checkpoints.source import Source, read_json, shape_of, stored_dtype
from retune_jax.checkpoints.torch_files import TorchFile
from retune_jax.errors import UserError

PARAMS = "params.json"

NAMES = {
    "embedding": "tok_embeddings.weight",
    "layers/attention_norm/scale": "layers.{}.attention_norm.weight",
    "layers/attention/q/kernel": "layers.{}.attention.wq.weight",
    "layers/attention/k/kernel": "layers.{}.attention.wk.weight",
    "layers/attention/v/kernel": "layers.{}.attention.wv.weight",
    "layers/attention/o/kernel": "layers.{}.attention.wo.weight",
    "layers/feed_forward_norm/scale": "layers.{}.ffn_norm.weight",
    "layers/feed_forward/gate/kernel": "layers.{}.feed_forward.w1.weight",
    "layers/feed_forward/up/kernel": "layers.{}.feed_forward.w3.weight",
    "layers/feed_forward/down/kernel": "layers.{}.feed_forward.w2.weight",
    "norm/scale": "norm.weight",
    "head": "output.weight",
}

BY_INPUTS = ("wo", "w2", "tok_embeddings")  # matrices cut along their second axis
NORMS = ("attention_norm", "ffn_norm", "norm")

KEYS = (
    *("dim", "n_layers", "n_heads", "n_kv_heads", "head_dim", "hidden_dim", "multiple_of", "ffn_dim_multiplier"),
    *("norm_eps", "vocab_size", "rope_theta", "sliding_window"),
)
NO_MATTER = ("max_seq_len", "max_batch_size")


class Joined:
    """A tensor whose parts lie in several files, put together, and its rows put in order, when it is read."""

    def __init__(self, name: str, parts: list, axis: int | None, head_width: int | None):
        """`axis` is what the tensor was cut along, None where each file has all of it; `head_width` that of rotated rows."""
        self.name, self.parts, self.axis, self.head_width, self.dtype = name, parts, axis, head_width, parts[0].dtype
        shapes = {part.shape for part in parts}
        if len(shapes) > 1 or {part.dtype for part in parts} != {self.dtype} or len(parts[0].shape) <= (axis or 0):
            raise UserError(f"{name}: its parts in the files differ in shape or type: {sorted(shapes)}")
        shape = list(parts[0].shape)
        if axis is not None:
            shape[axis] *= len(parts)
        self.shape = tuple(shape)

    def __getitem__(self, index) -> np.ndarray:
        whole = np.empty(self.shape, self.dtype)
        if self.axis is None:
            whole[...] = self.parts[0][...]
            if any(not np.array_equal(whole, part[...]) for part in self.parts[1:]):
                raise UserError(f"{self.name}: the files hold different values for it")
        else:
            size = self.parts[0].shape[self.axis]
            for number, part in enumerate(self.parts):
                place = slice(number * size, (number + 1) * size)
                whole[(slice(None),) * self.axis + (place,)] = part[...]
        if self.head_width is not None:
            pairs = whole.reshape(-1, self.head_width // 2, 2, self.shape[1])
            whole = pairs.swapaxes(1, 2).reshape(self.shape)
        return whole[index]


def open_folder(folder: Path) -> Source:
    """The model in a folder of Meta's files."""
    path = folder / PARAMS
    given = {key: value for key, value in read_json(path).items() if value is not None}
    for key, value in given.items():
        if key not in (*KEYS, *NO_MATTER):
            raise UserError(f"{path}: key {key!r} is not known here (its value: {str(value)[:60]!r})")
    for key in ("dim", "n_layers", "n_heads", "norm_eps"):
        if key not in given:
            raise UserError(f"{path} has no {key}")
    width, heads = given["dim"], given["n_heads"]
    head_width = given.get("head_dim", width // heads)
    tensors = _tensors(folder, head_width)
    vocab_size = given.get("vocab_size", -1)
    if vocab_size < 0:  # Meta's code takes the tokenizer's; the table is as long
        table = tensors.get(NAMES["embedding"])
        vocab_size = table.shape[0] if table is not None else 1
    dtype = stored_dtype(tensors, NAMES)
    shape = shape_of(
        path,
        vocab_size=vocab_size,
        layers=given["n_layers"],
        width=width,
        heads=heads,
        kv_heads=given.get("n_kv_heads", heads),
        head_width=head_width,
        hidden=_hidden(path, given),
        rope_theta=float(given.get("rope_theta", 10_000.0)),
        norm_epsilon=given["norm_eps"],
        tied_embeddings=False,
        dtype=dtype,
        param_dtype=dtype,
        sliding_window=given.get("sliding_window"),
    )
    tokenizers = (folder / "tokenizer.model", folder.absolute().parent / "tokenizer.model")  # LLaMA 1 has one for all sizes
    return Source(shape, next((path for path in tokenizers if path.is_file()), None), tensors, NAMES)


def _hidden(path: Path, given: dict) -> int:
    """The feed-forward's width: two thirds of four times the model's, scaled, and rounded up to a multiple."""
    if "hidden_dim" in given:
        return given["hidden_dim"]
    if "multiple_of" not in given:
        raise UserError(f"{path} has neither hidden_dim nor multiple_of")
    hidden, multiple = int(8 * given["dim"] / 3), given["multiple_of"]
    hidden = int(given.get("ffn_dim_multiplier", 1) * hidden)
    return -(-hidden // multiple) * multiple


def _tensors(folder: Path, head_width: int) -> dict[str, Joined]:
    files = sorted(folder.glob("consolidated.*.pth")) or sorted(folder.glob("consolidated*.safetensors"))
    if not files:
        raise UserError(f"{folder} has no consolidated.00.pth")
    numbers = [int(found[1]) for path in files if (found := re.search(r"\.(\d+)\.", path.name))]
    if len(files) > 1 and numbers != list(range(len(files))):
        missing = min(set(range(len(files) + 1)) - set(numbers))
        raise UserError(f"{folder} has {len(files)} consolidated files, but none with the number {missing:02d}")
    opened = [TorchFile(path).tensors if path.suffix == ".pth" else safetensors.read(path) for path in files]
    names = set().union(*opened)
    for path, tensors in zip(files, opened):
        if missing := sorted(names - tensors.keys()):
            raise UserError(f"{path} has no {missing[0]}, which the other files have")
    joined = {}
    for name in names - {"rope.freqs"}:  # the frequencies follow from theta
        kind = name.split(".")[-2] if "." in name else name
        axis = None if kind in NORMS else int(kind in BY_INPUTS)
        joined[name] = Joined(name, [tensors[name] for tensors in opened], axis, head_width if kind in ("wq", "wk") else None)
    return joined
