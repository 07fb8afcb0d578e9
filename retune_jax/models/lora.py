"""Low-rank adaptation (LoRA) by hand.

A frozen projection `W` of a pretrained model is tuned by adding a product of two thin matrices beside it
(Hu et al., 2021, arXiv 2106.09685):

    y = x W + (alpha / rank) · dropout(x) A B          W: [in, out]   A: [in, rank]   B: [rank, out]

`B` is zero at the start, so that the tuned model is the base model until the first step. Worked example, in=2, rank=1,
out=2, alpha=2, W the identity, A = [[1], [1]], B = [[0, 3]]: x = [1, 2] gives x W = [1, 2], x A = [3], x A B = [0, 9], and
y = [1, 2] + 2 · [0, 9] = [1, 20].

A and B are `LoRAParam`s, W is a plain `nnx.Param`. That type is the whole interface to the rest of the project:

    graphdef, adapter, base = nnx.split(model, LoRAParam, ...)

gives two separate trees. The trainer differentiates, optimises and saves the first and never touches the second.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from retune_jax.models.quantize import HELD, product

PROJECTIONS = ("q", "k", "v", "o", "gate", "up", "down")


class LoRAParam(nnx.Param):
    """A weight of the adapter: the only kind that has gradients when a base model is tuned."""


@dataclasses.dataclass(frozen=True)
class LoraConfig:
    """Which projections carry an adapter, and of what shape.

    Attributes:
        rank: the inner width r of A and B.
        alpha: the adapter's output is scaled by alpha / rank.
        dropout: the probability with which an entry of the adapter's input is dropped in training.
        targets: names out of `PROJECTIONS`.
    """

    rank: int
    alpha: float
    dropout: float
    targets: tuple[str, ...]

    def __post_init__(self):
        unknown = [target for target in self.targets if target not in PROJECTIONS]
        if unknown:
            raise ValueError(f"lora.targets: {unknown[0]!r} is not one of {', '.join(PROJECTIONS)}")
        if self.rank < 1:
            raise ValueError(f"lora.rank: {self.rank} is not a positive number")


class Adapter(nnx.Module):
    """The thin path beside one projection: x -> (alpha / rank) · dropout(x) A B."""

    def __init__(self, in_width: int, out_width: int, config: LoraConfig, *, dtype, param_dtype, rngs: nnx.Rngs):
        # A as in the reference implementation: Kaiming-uniform with a = sqrt(5), that is U(-1/sqrt(in), 1/sqrt(in)).
        bound = in_width**-0.5
        shape = (in_width, config.rank)
        self.a = LoRAParam(jax.random.uniform(rngs.params(), shape, param_dtype, -bound, bound))
        self.b = LoRAParam(jnp.zeros((config.rank, out_width), param_dtype))
        self.scale = config.alpha / config.rank
        self.dropout = config.dropout
        self.dtype = dtype

    def __call__(self, x, dropout_key=None):
        """Maps x [..., in] to [..., out]; entries of x are dropped where a key is given."""
        if dropout_key is not None and self.dropout > 0:
            kept = jax.random.bernoulli(dropout_key, 1 - self.dropout, x.shape)
            x = jnp.where(kept, x / (1 - self.dropout), 0).astype(x.dtype)
        return self.scale * ((x @ self.a[...].astype(self.dtype)) @ self.b[...].astype(self.dtype))


class Projection(nnx.Module):
    """A linear map without bias, with an adapter beside it where `lora` is given."""

    def __init__(
        self,
        in_width: int,
        out_width: int,
        lora: LoraConfig | None,
        *,
        dtype,
        param_dtype,
        rngs: nnx.Rngs,
        quantize: str = "none",
    ):
        initial = jax.random.truncated_normal(rngs.params(), -3, 3, (in_width, out_width), param_dtype)
        initial *= in_width**-0.5
        self.kernel = nnx.data(nnx.Param(initial) if quantize == "none" else HELD[quantize](initial))
        widths = (in_width, out_width)
        # The adapter stays float32 whatever the base is stored in: its updates are small beside its values.
        self.lora = nnx.data(
            Adapter(*widths, lora, dtype=dtype, param_dtype=jnp.float32, rngs=rngs) if lora is not None else None
        )
        self.dtype = dtype

    def __call__(self, x, dropout_key=None):
        """Maps x [..., in] to [..., out]."""
        # One row axis: with several, XLA's CPU back end takes twice the time for the gradient of the kernel.
        rows = x.reshape(-1, x.shape[-1])
        if isinstance(self.kernel, nnx.Param):
            y = rows @ self.kernel[...].astype(self.dtype)
        else:
            y = product(rows, self.kernel, self.dtype)
        if self.lora is not None:
            y = y + self.lora(rows, dropout_key)
        return y.reshape(*x.shape[:-1], -1)


def merge(model: nnx.Module) -> nnx.Module:
    """A copy whose adapters are in its kernels, which maps as the model does (without dropout): W + (alpha / rank) A B.

    Decoding takes many small steps, and this saves two products beside each. A kernel of less precision than float32 would
    lose the finer part of its adapter, and keeps it beside it; a quantised one is expanded first where the arithmetic is in
    float32, and else stays as it is.
    """
    model = nnx.clone(model)
    for _, module in nnx.iter_graph(model):
        if not isinstance(module, Projection) or module.lora is None:
            continue
        if not isinstance(module.kernel, nnx.Param) and module.dtype == jnp.float32:
            module.kernel = nnx.data(nnx.Param(jax.vmap(lambda held: held.expanded(jnp.float32))(module.kernel)))
        if isinstance(module.kernel, nnx.Param) and module.kernel[...].dtype == jnp.float32:
            module.kernel[...] += module.lora.scale * (module.lora.a[...] @ module.lora.b[...])
            module.lora = nnx.data(None)
    return model
