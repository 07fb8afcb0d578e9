"""Merge sort of a list of numbers of two digits, trained on 1-8 of them by Re-Tuning; or otherwise.

    python -m retune_jax.train --config=configs/merge_sort.py
    python -m retune_jax.train --config=configs/merge_sort.py:method=scratchpad --config.train.steps=300

Any key of retune_jax/config.py can be set like the last one.
"""

from retune_jax.config import recipe


def get_config(arguments: str = ""):
    """The run's configuration; `arguments` is `method=…,model=…,data=…`."""
    config = recipe(arguments, task="merge_sort", small=1.0)
    if config.model.startswith("tiny"):
        config.data.context_length = 192  # 8 items take 140, and as a scratchpad 160
        config.train.update({"steps": 600, "rows": 8, "loss": "sum"})
        config.eval.lengths = "1:24"
        if config.method == "no_isolation":  # the whole recursion in one context
            config.data.update({"sequence_length": 1024, "context_length": 640})  # 8 items take 530
    return config
