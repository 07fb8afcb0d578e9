"""Parity of a list of bits, trained on 1-21 of them by Re-Tuning; or otherwise.

    python -m retune_jax.train --config=configs/parity.py
    python -m retune_jax.train --config=configs/parity.py:method=scratchpad --config.train.steps=300

Any key of retune_jax/config.py can be set like the last one.
"""

from retune_jax.config import recipe


def get_config(arguments: str = ""):
    """The run's configuration; `arguments` is `method=…,model=…,data=…`."""
    config = recipe(arguments, task="parity", small=0.5)
    if config.model.startswith("tiny"):
        config.data.context_length = 128  # 21 bits take 112, and as a scratchpad 115
        config.train.update({"steps": 400, "rows": 8})
        if config.method in ("retune", "no_carry"):
            # Half of the examples keep the base's copying alive, up to twice the trained length.
            config.data.update({"replay": 0.5, "replay_items": 48, "context_length": 512})
            config.train.update({"steps": 300, "learning_rate": 2e-3})
        elif config.method == "no_isolation":  # the whole recursion in one context: 40 bits take 2,510 tokens
            config.data.update({"sequence_length": 1024, "context_length": 1024})  # 21 bits take 915
            config.train.rows = 4
        elif config.method == "baseline":
            config.train.learning_rate = 6e-3  # the best of 1e-3, 3e-3 and 6e-3
    return config
