"""The largest sum of items that are not neighbours, trained on lists of 2-5 items by Re-Tuning; or otherwise.

    python -m retune_jax.train --config=configs/dynamic_programming.py
    python -m retune_jax.train --config=configs/dynamic_programming.py:method=scratchpad --config.train.steps=600

Any key of retune_jax/config.py can be set like the last one.
"""

from retune_jax.config import recipe


def get_config(arguments: str = ""):
    """The run's configuration; `arguments` is `method=…,model=…,data=…`."""
    config = recipe(arguments, task="dynamic_programming", small=1.0)
    if config.model.startswith("tiny"):
        config.lora.update({"rank": 32, "alpha": 32.0})
        config.train.update({"steps": 1650, "rows": 8, "loss": "sum"})
        # Gaps come when the computations are learned, which they would put off.
        config.data.update({"gaps": 600, "gaps_after": 800})
        config.eval.lengths = "2:24"
        if config.method in ("retune", "no_carry"):
            # Two phases: the computations alone, then replay, a quarter of it sums that are nearly equal, and gaps. Muon gets
            # farther in as many steps (docs/results.md).
            config.data.update({"replay": 0.4, "replay_after": 900, "replay_items": 30, "sums": 0.25, "context_length": 512})
            config.data.update({"gaps": 400, "gaps_after": 900})
            config.train.update({"steps": 1800, "schedule": "linear", "optimizer": "muon", "learning_rate": 1e-2})
        elif config.method == "scratchpad":
            config.data.update({"sequence_length": 1024, "context_length": 1024, "gaps_after": 400})
            config.train.update({"steps": 825, "learning_rate": 6e-3})  # steps of twice the tokens
        elif config.method == "no_isolation":  # the whole recursion in one context: 12 items take 3,110
            config.data.update({"sequence_length": 1152, "context_length": 1152})  # 5 items take 1,000
            config.train.rows = 4
            config.eval.lengths = "2:12"
        else:
            config.data.context_length = 256  # 5 items take 176, and without recursion 192
            config.train.learning_rate = 1e-3  # the best of 1e-3, 3e-3 and 6e-3
    return config
