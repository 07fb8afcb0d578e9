"""The optimizer: AdamW with a clipped gradient and a learning rate that warms up and then falls, or does not."""

import optax

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


def make_optimizer(train) -> optax.GradientTransformation:
    """Clipping by global norm, then AdamW with decoupled weight decay, as `config.train` asks."""
    return optax.chain(
        optax.clip_by_global_norm(train.clip),
        optax.adamw(schedule(train), *BETAS, weight_decay=train.weight_decay),
    )
