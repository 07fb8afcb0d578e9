"""A frozen base in 8 or 4 bits a weight: `config.quantize`, while the adapter beside it is trained in float32.

Only the kernels of the layers are held so, which are 96% of LLaMA 7B; embeddings, output matrix and norms stay as they are.
A kernel is expanded where it is multiplied with and dropped again, in the backward pass too: it is never kept expanded.

- `int8`: each output channel (column) is scaled so that its largest weight is 127, and rounded. 1.0 byte a weight.
- `nf4`: blocks of 64 weights of a column are scaled to [-1, 1], and each weight takes the nearest of 16 values that split a
  normal distribution evenly (Dettmers et al., 2023, arXiv 2305.14314); two of them fill a byte. The blocks' scales are
  quantised once more (*double quantisation*): less their mean, to 8 bits, in groups of up to 256. 0.52 bytes a weight. QLoRA's
  8 bits are a small float, ours an integer.

Worked example, `int8`, one column [0.5, -1.0, 0.254]: the scale is 1/127, the codes are [64, -127, 32], and they mean
[0.504, -1.0, 0.252]. `product` is then x · codes · scale: bfloat16 holds the codes exactly.

Training, evaluation and export see the same numbers: `merge` and `checkpoints/exporting.py` add the adapter to the expanded
kernel, which is what it was trained beside.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from retune_jax.errors import UserError

KINDS = ("none", "int8", "nf4")

BLOCK = 64  # weights of a column that share a scale in nf4
GROUP = 256  # scales that share a scale

# The 16 values of NF4, as bitsandbytes has them.
NF4 = np.array(
    """
    -1.0 -0.6961928009986877 -0.5250730514526367 -0.39491748809814453 -0.28444138169288635 -0.18477343022823334
    -0.09105003625154495 0.0 0.07958029955625534 0.16093020141124725 0.24611230194568634 0.33791524171829224
    0.44070982933044434 0.5626170039176941 0.7229568362236023 1.0
    """.split(),
    np.float32,
)


class Frozen(nnx.Variable):
    """A part of a quantised kernel; nothing differentiates it."""


class Int8(nnx.Module):
    """A kernel [in, out] as int8 `codes` of that shape, and float32 `scales` [out]."""

    def __init__(self, kernel):
        kernel = kernel.astype(jnp.float32)
        scales = _above_zero(jnp.abs(kernel).max(0)) / 127
        self.codes = Frozen(jnp.round(kernel / scales).astype(jnp.int8))
        self.scales = Frozen(scales)

    def expanded(self, dtype):
        """The kernel that the codes mean."""
        return (self.codes[...].astype(jnp.float32) * self.scales[...]).astype(dtype)

    def product(self, x, dtype):
        """x [..., in] times the kernel."""
        return (x @ self.codes[...].astype(dtype)) * self.scales[...].astype(dtype)


class NormalFloat4(nnx.Module):
    """A kernel [in, out] as uint8 `codes` [in/2, out] (rows 2i and 2i + 1 in the low and the high four bits) with their scales.

    `block_codes` int8 [in/64, out], `block_scales` float32 [in/64, out/256] and `block_mean` float32 give a scale a block.
    """

    def __init__(self, kernel):
        kernel = kernel.astype(jnp.float32)
        rows, columns = kernel.shape
        blocks = kernel.reshape(-1, _block(rows), columns)
        largest = jnp.abs(blocks).max(1)
        mean = largest.mean()
        grouped = (largest - mean).reshape(len(blocks), -1, math.gcd(columns, GROUP))
        scales = _above_zero(jnp.abs(grouped).max(-1)) / 127
        self.block_codes = Frozen(jnp.round(grouped / scales[..., None]).astype(jnp.int8).reshape(largest.shape))
        self.block_scales = Frozen(scales)
        self.block_mean = Frozen(mean)
        # Rounded with the scales that expanding will use. One may have come out as 0, or less.
        of_block = self._largest()
        shares = blocks / jnp.where(of_block > 0, of_block, 1)[:, None]
        codes = jnp.searchsorted((NF4[1:] + NF4[:-1]) / 2, shares.reshape(rows, columns)).astype(jnp.uint8)
        self.codes = Frozen(codes[::2] | codes[1::2] << 4)

    def _largest(self):
        codes, scales = self.block_codes[...], self.block_scales[...]
        wide = codes.reshape(*scales.shape, -1).astype(jnp.float32) * scales[..., None]
        return jnp.maximum(wide.reshape(codes.shape) + self.block_mean[...], 0)

    def expanded(self, dtype):
        """The kernel that the codes mean."""
        packed, largest = self.codes[...], self._largest()
        codes = jnp.stack([packed & 15, packed >> 4], axis=1).reshape(-1, packed.shape[-1])
        blocks = jnp.asarray(NF4, dtype)[codes].reshape(len(largest), -1, packed.shape[-1])
        return (blocks * largest[:, None].astype(dtype)).reshape(codes.shape)

    def product(self, x, dtype):
        """x [..., in] times the kernel."""
        return x @ self.expanded(dtype)


HELD = {"int8": Int8, "nf4": NormalFloat4}


def product(x, held, dtype):
    """x [..., in] times a kernel, which is expanded anew in the backward pass instead of being kept."""
    graphdef, state = nnx.split(held)
    return jax.checkpoint(lambda x, state: nnx.merge(graphdef, state).product(x, dtype))(x, state)


def parts(kind: str, stacked) -> dict[str, np.ndarray]:
    """The arrays, on the host, that hold the kernels [layers, in, out] of all layers; one layer at a time is worked on."""
    quantised = jax.jit(lambda kernel: nnx.to_pure_dict(nnx.state(HELD[kind](kernel))))
    layers = [jax.tree.map(np.asarray, quantised(np.asarray(stacked[number]))) for number in range(stacked.shape[0])]
    return jax.tree.map(lambda *arrays: np.stack(arrays), *layers)


def rounded(kind: str, kernel: np.ndarray) -> np.ndarray:
    """A kernel [in, out] as it is after it was held as `kind`, in its own dtype."""
    if kind == "none":
        return kernel
    return np.asarray(jax.jit(lambda kernel: HELD[kind](kernel).expanded(kernel.dtype))(kernel))  # type: ignore[attr-defined]


def check(kind: str, rank: int):
    """Refuses, by a `UserError`, to quantise weights that are trained."""
    if kind != "none" and not rank:
        raise UserError(f"config.quantize: {kind} holds a base that is frozen; without an adapter (lora.rank=0) it is trained")


def _block(rows: int) -> int:
    block = math.gcd(rows, BLOCK)
    if block % 2:
        raise UserError(f"config.quantize: nf4 packs weights in pairs, and a kernel of {rows} rows has none")
    return block


def _above_zero(sizes):
    return jnp.where(sizes > 0, sizes, 1)
