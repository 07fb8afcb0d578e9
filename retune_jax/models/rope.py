"""Rotary position embedding (Su et al., 2021, arXiv 2104.09864): where a token stands, as a turn of its queries and keys.

A head of width E is taken as E/2 pairs (i, i + E/2), and each pair turns by position · frequency_i. A model's own config says
what the frequencies are: theta^(-2i/E), and for some models these slowed down, so that longer texts fit into the turns that
were seen in training:

- `linear`: every frequency divided by `factor` (Chen et al., 2023; CodeLlama-like long contexts);
- `llama3`: only the slow ones, whose wave is longer than the original context; the fast ones stay, and those between are
  mixed (Meta's Llama 3.1).

Shape suffixes: B batch, T tokens, N heads, E head width.
"""

import dataclasses
import math

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


def rotate(x_BxTxNxE, positions_BxT, theta: float, scaling: RopeScaling | None = None):
    """Turns the pairs of each head by their positions; keeps shape and dtype, computes in float32."""
    turns = frequencies(x_BxTxNxE.shape[-1], theta, scaling)
    angles = positions_BxT.astype(jnp.float32)[..., None, None] * turns
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    x1, x2 = jnp.split(x_BxTxNxE.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([x1 * cos - x2 * sin, x2 * cos + x1 * sin], axis=-1).astype(x_BxTxNxE.dtype)
