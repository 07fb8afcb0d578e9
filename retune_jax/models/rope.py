"""Rotary position embedding (Su et al., 2021, arXiv 2104.09864): where a token stands, as a turn of its queries and keys.

A head of width E is taken as E/2 pairs (i, i + E/2), and each pair turns by position · frequency_i. A model's own config says
what the frequencies are: theta^(-2i/E), and for some models these slowed down, so that longer texts fit into the turns that
were seen in training:

- `linear`: every frequency divided by `factor` (Chen et al., 2023; CodeLlama-like long contexts);
- `llama3`: only the slow ones, whose wave is longer than the original context; the fast ones stay, and those between are
  mixed (Meta's Llama 3.1).

Shape suffixes: B batch, T tokens, N heads, E head width, F half of it.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

KINDS = ("linear", "llama3")


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """How a model slows its rotary frequencies.

    Attributes:
        kind: a name out of `KINDS`.
        factor: what the slowed frequencies are divided by.
        low_frequency_factor, high_frequency_factor: `llama3` slows waves longer than original_context / low and keeps waves
            shorter than original_context / high, in tokens.
        original_context: tokens of the longest text seen before the model was stretched.
    """

    kind: str
    factor: float
    low_frequency_factor: float = 1.0
    high_frequency_factor: float = 4.0
    original_context: int = 8192

    def __post_init__(self):
        if self.kind not in KINDS:
            raise ValueError(f"rope_scaling: {self.kind!r} is not one of {', '.join(KINDS)}")
        if not self.factor >= 1:
            raise ValueError(f"rope_scaling: a factor of {self.factor} is less than 1")
        if not 0 < self.low_frequency_factor < self.high_frequency_factor:
            low, high = self.low_frequency_factor, self.high_frequency_factor
            raise ValueError(f"rope_scaling: the low frequency factor {low} has to be below the high one, {high}")


def frequencies(head_width: int, theta: float, scaling: RopeScaling | None) -> np.ndarray:
    """The turn of each pair from one position to the next, in radians: float32 [E/2]."""
    plain = theta ** (-np.arange(head_width // 2) / (head_width // 2))
    if scaling is None:
        return plain.astype(np.float32)
    slowed = plain / scaling.factor
    if scaling.kind == "linear":
        return slowed.astype(np.float32)
    low, high = scaling.low_frequency_factor, scaling.high_frequency_factor
    waves = scaling.original_context * plain / (2 * math.pi)  # of a pair, in the original context
    kept = np.clip((waves - low) / (high - low), 0, 1)
    return (kept * plain + (1 - kept) * slowed).astype(np.float32)


def turns(positions_BxT, head_width: int, theta: float, scaling: RopeScaling | None = None):
    """What `rotate` takes for tokens at these positions: cosines and signed sines, float32 [B, T, 1, 2, E].

    All layers turn alike, so that a model works this out once.
    """
    angles = positions_BxT.astype(jnp.float32)[..., None, None] * frequencies(head_width, theta, scaling)
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    # One array, and so one loop: XLA would put the cosines into each of the loops that rotate, for each head anew.
    return jnp.concatenate([cos, cos, -sin, sin], axis=-1).reshape(*positions_BxT.shape, 1, 2, head_width)


def rotate(x_BxTxNxE, turns_BxTx1x2xE):
    """Turns the pairs (x1, x2) of each head: (x1 cos - x2 sin, x2 cos + x1 sin); keeps shape and dtype, computes in float32.

    The halves change places by a reversal, which a CPU does sixteen numbers at a time, and a concatenation of them one by one.
    """
    *rows, heads, width = x_BxTxNxE.shape
    halves_BxTxNx2xF = x_BxTxNxE.astype(jnp.float32).reshape(*rows, heads, 2, width // 2)
    halves_BxTx1x2x2xF = turns_BxTx1x2xE.reshape(*turns_BxTx1x2xE.shape[:-1], 2, width // 2)
    cos, sin = halves_BxTx1x2x2xF[..., 0, :, :], halves_BxTx1x2x2xF[..., 1, :, :]
    turned = halves_BxTxNx2xF * cos + jax.lax.rev(halves_BxTxNx2xF, (len(rows) + 1,)) * sin
    return turned.reshape(x_BxTxNxE.shape).astype(x_BxTxNxE.dtype)
