"""Multiplication of two numbers, whose contexts call addition's; trained on 1-3 digits by Re-Tuning, or otherwise.

    python -m retune_jax.train --config=configs/multiplication.py
    python -m retune_jax.train --config=configs/multiplication.py:method=baseline --config.train.steps=300

Any key of retune_jax/config.py can be set like the last one.
"""

from retune_jax.config import recipe


def get_config(arguments: str = ""):
    """The run's configuration; `arguments` is `method=…,model=…,data=…`."""
    config = recipe(arguments, task="multiplication", small=1.0)
    if config.model.startswith("tiny"):
        config.data.context_length = 128  # 3 digits take 100
        config.train.update({"steps": 600, "rows": 8, "loss": "sum"})
        config.eval.lengths = "1:9"
        if config.method == "scratchpad":  # every value of the recursion: 9 digits take 2,600
            config.data.context_length = 256  # 3 digits take 190
        if config.method == "no_isolation":  # the whole recursion in one context: 5 digits take 2,400
            config.data.update({"sequence_length": 1024, "context_length": 1024})  # 3 digits take 720
            config.eval.lengths = "1:5"
    return config
