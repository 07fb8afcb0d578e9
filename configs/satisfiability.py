"""Satisfiability of formulas in clauses, trained on 3-6 variables by Re-Tuning; or otherwise.

    python -m retune_jax.train --config=configs/satisfiability.py
    python -m retune_jax.train --config=configs/satisfiability.py:method=scratchpad --config.train.steps=300

Any key of retune_jax/config.py can be set like the last one.
"""

from retune_jax.config import recipe


def get_config(arguments: str = ""):
    """The run's configuration; `arguments` is `method=…,model=…,data=…`."""
    config = recipe(arguments, task="satisfiability", small=1.0)
    if config.model.startswith("tiny"):
        config.data.update({"sequence_length": 1024, "context_length": 512})  # 6 variables take 360
        config.train.update({"steps": 600, "rows": 4, "loss": "sum"})
        config.eval.lengths = "3:10"
        if config.method == "scratchpad":
            config.data.update({"sequence_length": 2048, "context_length": 2048})
        if config.method == "no_isolation":  # the whole recursion in one context: 8 variables take 5,400
            config.data.update({"sequence_length": 4096, "context_length": 4096})  # 6 variables take 2,400
            config.train.rows = 1
            config.decode.slots = 16
            config.eval.lengths = "3:8"
    return config
