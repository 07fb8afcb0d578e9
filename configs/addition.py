"""Addition of two numbers, trained on 1-15 digits by Re-Tuning; or otherwise.

    python -m retune_jax.train --config=configs/addition.py
    python -m retune_jax.train --config=configs/addition.py:method=baseline,data=paper --config.train.steps=2000

Any key of retune_jax/config.py can be set like the last one.
"""

from retune_jax.config import recipe


def get_config(arguments: str = ""):
    """The run's configuration; `arguments` is `method=…,model=…,data=…`."""
    config = recipe(arguments, task="addition", small=0.1)
    if config.model.startswith("tiny"):
        config.train.update({"steps": 1000, "rows": 8, "loss": "sum"})
        config.data.gaps = 600  # so that a sum finds its first digits at any distance
        config.eval.lengths = "1:60"
        if config.method in ("retune", "no_carry"):
            # Two phases: the sum is learned in a jump, which replay would put off; then replay, at a rate that has fallen.
            config.data.update({"replay": 0.35, "replay_after": 600, "context_length": 512})
            config.train.update({"steps": 1100, "schedule": "linear"})  # 925 of them the task's
        elif config.method == "no_isolation":  # the whole recursion in one context: 30 digits take 2,600
            config.data.update({"sequence_length": 1024, "context_length": 1024})  # 15 digits take 842
            config.train.rows = 4
            config.eval.lengths = "1:30"
        else:
            config.train.learning_rate = 6e-3  # the best of 1e-3, 3e-3 and 6e-3
            if config.method == "baseline":
                config.data.context_length = 128  # 15 digits take 117, and as a scratchpad 275
    return config
