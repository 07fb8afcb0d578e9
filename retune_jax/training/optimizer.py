"""The optimizer: a clipped gradient, AdamW or Muon, and a learning rate that warms up and then falls, or does not."""

import jax
import optax
from optax import contrib

BETAS = (0.9, 0.999)  # torch's defaults, which the paper's code uses


def schedule(train) -> optax.Schedule:
    """The learning rate of each step, counted from 0, as `config.train` asks.

    The first of `warmup` warm-up steps has 1 / (warmup + 1) of the rate, so that no step is wasted at 0; after them
    the rate is constant, or falls along a line or half a cosine to reach 0 one step after the last.
    """
    rate, falling = train.learning_rate, max(1, train.steps - train.warmup)
    after = {
        "constant": lambda: optax.constant_schedule(rate),
        "linear": lambda: optax.linear_schedule(rate, 0.0, falling),
        "cosine": lambda: optax.cosine_decay_schedule(rate, falling),
    }[train.schedule]()
    rising = optax.linear_schedule(rate / (train.warmup + 1), rate, max(1, train.warmup))
    return optax.join_schedules([rising, after], [train.warmup])


def jump(before, now, step: int) -> tuple[float, float] | None:
    """The learning rates of a step as one `config.train` and another have it; None where they hardly differ."""
    old, new = (float(schedule(train)(step)) for train in (before, now))
    return None if abs(new - old) <= 0.01 * max(old, new) else (old, new)


def make_optimizer(train) -> optax.GradientTransformation:
    """Clipping by global norm, then `train.optimizer` with decoupled weight decay, as `config.train` asks.

    `adamw` is the paper's. `muon` (Jordan et al., 2024) steps along the orthogonalised momentum of each layer's matrices,
    at the given rate, and leaves embeddings and scales to AdamW at a tenth of it. A base learns to copy sooner by it.
    """
    rate = schedule(train)
    if train.optimizer == "muon":
        chosen = contrib.muon(
            rate,
            weight_decay=train.weight_decay,
            adam_learning_rate=lambda step: rate(step) / 10,
            muon_weight_dimension_numbers=_matrices,
        )
    else:
        chosen = optax.adamw(rate, *BETAS, weight_decay=train.weight_decay)
    return optax.chain(optax.clip_by_global_norm(train.clip), chosen)


def _matrices(params):
    """Which parameters are matrices to Muon: those of the stacked layers, [layers, in, out]."""
    stacked = contrib.MuonDimensionNumbers(reduction_axis=1, output_axis=2)
    return jax.tree.map(lambda x: stacked if x.ndim == 3 else None, params)
