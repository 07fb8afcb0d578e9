"""The tiny base model: all weights, from random ones, on general skills (retune_jax/data/corpus).

Three stages, each from the one before, on one GPU. The first learns to copy, ever longer lists; the second, on short ones, to
find what a label names and to calculate with it; the third does all of it at any length:

    for stage in 1 2 3; do
        python -m retune_jax.train --config=configs/base.py:stage=$stage --workdir=runs/base-$stage
    done
    cp runs/base-3/base/* retune_jax/assets/tiny/

On a CPU a stage needs `--config.train.attention=flash`, fewer rows, and a curriculum as much shorter.
"""

from retune_jax.config import pretraining, read_arguments
from retune_jax.errors import UserError

# Per stage: of the data, and of the training. A curriculum has points (example, longest list); gaps are positions that a
# context may take (data/gaps.py).
STAGES = {
    "1": (
        {
            "sequence_length": 768,
            "curriculum": ((0, 4), (800_000, 4), (1_600_000, 12), (2_600_000, 36), (4_000_000, 130)),
            "gaps": 1024,
            "workers": 12,
        },
        {"steps": 12_000, "rows": 160, "learning_rate": 2e-2, "warmup": 100, "schedule": "cosine"},
    ),
    "2": (
        {"sequence_length": 512, "curriculum": ((0, 12),), "workers": 3},
        {"steps": 2164, "rows": 48, "learning_rate": 2e-2, "warmup": 50, "schedule": "constant"},
    ),
    "3": (
        {"sequence_length": 768, "curriculum": ((0, 12), (300_000, 12), (1_300_000, 130)), "gaps": 1024, "workers": 12},
        {"steps": 5600, "rows": 160, "learning_rate": 1.2e-2, "warmup": 100, "schedule": "cosine"},
    ),
}


def get_config(arguments: str = ""):
    """The configuration of a stage; `arguments` is `stage=…`."""
    stage = read_arguments(arguments, {"stage": "1"})["stage"]
    if stage not in STAGES:
        raise UserError(f"config argument 'stage={stage}': no such stage; there are {', '.join(STAGES)}")
    config = pretraining("")
    data, train = STAGES[stage]
    if stage != "1":
        config.base = f"runs/base-{int(stage) - 1}/base"
    config.seed = 3 if stage == "3" else 0
    config.data.update({**data, "context_length": data["sequence_length"]})
    config.data.repeats = 0.6  # where a stretch comes twice is where copies fail
    # Copies are learned from all their tokens; facts, which are single tokens, need more of a say than that: "root".
    config.train.update({**train, "loss": "root", "attention": "xla", "log_every": 50, "save_every": 1000})
    return config
