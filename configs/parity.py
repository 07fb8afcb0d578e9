"""Parity of a list of bits, trained on 1-21 of them.

python -m retune_jax.train --config=configs/parity.py
python -m retune_jax.train --config=configs/parity.py:method=scratchpad --config.train.steps=300
"""

from retune_jax.config import recipe


def get_config(arguments: str = ""):
    """The run's configuration; `arguments` is `method=…,model=…`."""
    return recipe(arguments, task="parity")
