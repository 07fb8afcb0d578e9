"""Files that `torch.save` wrote (`.bin`, `.pth`), read one tensor at a time through torch's weights-only loading.

torch is needed for these files only, and not installed with the package. A file is mapped, not loaded; what was touched of a
mapping stays in memory, so that the mapping is made anew now and then.
"""

import pickle
import re
import warnings
import zipfile
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from retune_jax.errors import UserError

TOUCHED = 2**28  # bytes read of a mapping before it is made anew


class TorchFile:
    """A dictionary of tensors on disk."""

    def __init__(self, path: Path):
        """Opens `path`; a `UserError` says why it cannot be read."""
        self.path, self._touched = path, 0
        self._loaded: dict | None = None
        for name, tensor in self._load().items():
            if not hasattr(tensor, "untyped_storage"):
                raise UserError(f"{path}: {name} is a {type(tensor).__name__}, not a tensor")
        self.tensors = {name: TorchTensor(self, name, tensor) for name, tensor in self._load().items()}

    def _load(self) -> dict:
        if self._loaded is None:
            try:
                import torch
            except ImportError as error:
                raise UserError(f"{self.path} is a file of PyTorch's: pip install torch, to read it") from error
            try:
                # The format before 2020 is no zip file and cannot be mapped.
                mapped = zipfile.is_zipfile(self.path)
                with warnings.catch_warnings(action="ignore"):
                    self._loaded = torch.load(self.path, map_location="cpu", mmap=mapped, weights_only=True)
            except OSError as error:
                raise UserError(f"{self.path} cannot be read: {error.strerror or error}") from error
            except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, AttributeError) as error:
                told = re.search(r"WeightsUnpickler error: (.+)", str(error)) or re.search(r"(.+)", str(error))
                reason = told[1][:150] if told else type(error).__name__
                raise UserError(f"{self.path} is damaged, or holds more than tensors: {reason}") from error
            if not isinstance(self._loaded, dict):
                raise UserError(f"{self.path} holds a {type(self._loaded).__name__}, not tensors by name")
        return self._loaded

    def read(self, name: str) -> np.ndarray:
        """A copy of a tensor."""
        import torch

        tensor = self._load()[name].detach().contiguous()
        sixteen = tensor.dtype == torch.bfloat16  # NumPy has no such type of its own
        array = np.array((tensor.view(torch.int16) if sixteen else tensor).numpy())
        self._touched += array.nbytes
        if self._touched > TOUCHED:
            del tensor
            self._loaded, self._touched = None, 0
        return array.view(jnp.bfloat16) if sixteen else array


class TorchTensor:
    """A tensor of a `TorchFile`, read when it is indexed; `shape` and `dtype` are known before."""

    def __init__(self, file: TorchFile, name: str, tensor):
        self.file, self.name, self.shape = file, name, tuple(tensor.shape)
        kind = str(tensor.dtype).removeprefix("torch.")
        try:
            self.dtype = np.dtype(jnp.bfloat16 if kind == "bfloat16" else kind)
        except TypeError as error:
            raise UserError(f"{file.path}: {name} is of type {kind}, which is not known here") from error

    def __getitem__(self, index) -> np.ndarray:
        return self.file.read(self.name)[index]
