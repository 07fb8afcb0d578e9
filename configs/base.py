"""The tiny base model: all weights, from random ones, on general skills (retune_jax/data/corpus.py).

Three stages, each from the one before, with ever longer lists:

    for stage in 1 2 3; do
        python -m retune_jax.train --config=configs/base.py:stage=$stage --workdir=runs/base-$stage
    done
    cp runs/base-3/base/* retune_jax/assets/tiny/
"""

from retune_jax.config import pretraining, read_arguments

# Per stage: steps, rows a step, tokens a row, the weighing of the loss, and the curriculum: (example, longest list).
# Copying is learned from all its tokens ("sum"); facts, which are single tokens, need an equal say ("mean") in between.
STAGES = {
    "1": (480, 16, 256, "sum", ((0, 4), (24_000, 4), (38_000, 12))),
    "2": (400, 12, 384, "mean", ((0, 12), (15_000, 36))),
    "3": (650, 12, 400, "sum", ((0, 30), (10_000, 64))),
}


def get_config(arguments: str = ""):
    """The configuration of a stage; `arguments` is `stage=…`."""
    stage = read_arguments(arguments, {"stage": "1"})["stage"]
    config = pretraining("")
    steps, rows, length, loss, curriculum = STAGES[stage]
    if stage != "1":
        config.base = f"runs/base-{int(stage) - 1}/base"
    config.seed = int(stage)
    config.data.update({"sequence_length": length, "context_length": length, "curriculum": curriculum})
    config.train.update({"steps": steps, "rows": rows, "loss": loss, "warmup": 50})
    if stage == max(STAGES):
        config.train.schedule = "cosine"
    return config
