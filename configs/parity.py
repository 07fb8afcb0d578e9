"""Parity of a list of bits, trained on 1-21 of them by Re-Tuning; or otherwise.

    python -m retune_jax.train --config=configs/parity.py
    python -m retune_jax.train --config=configs/parity.py:method=scratchpad --config.train.steps=300

Any key of retune_jax/config.py can be set like the last one.
"""

from retune_jax.config import recipe


def get_config(arguments: str = ""):
    """The run's configuration; `arguments` is `method=…,model=…`."""
    return recipe(arguments, task="parity")
