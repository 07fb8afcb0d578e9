"""The tiny base model: all weights, from random ones, on general skills (retune_jax/data/corpus.py).

Ten stages, each from the one before, with ever longer lists; the last four make copies exact and forms known:

    for stage in 1 2 3 4 5 6 7 8 9 10; do
        python -m retune_jax.train --config=configs/base.py:stage=$stage --workdir=runs/base-$stage
    done
    cp runs/base-10/base/* retune_jax/assets/tiny/
"""

from retune_jax.config import pretraining, read_arguments

# Per stage: steps, rows a step, tokens a row, the weighing of the loss, and the curriculum: (example, longest list).
# Copying is learned, and in the end made exact, from all its tokens ("sum"); facts, which are single tokens, need an equal
# say in between ("mean").
STAGES = {
    "1": (550, 12, 384, "sum", ((0, 4), (20_000, 4), (40_000, 12))),
    "2": (500, 12, 512, "mean", ((0, 12), (15_000, 36))),
    "3": (800, 12, 512, "mean", ((0, 30), (20_000, 72))),
    "4": (1700, 12, 512, "sum", ((0, 72),)),
    "5": (1500, 12, 512, "sum", ((0, 72),)),
    "6": (900, 12, 512, "sum", ((0, 72),)),
    "7": (2000, 12, 512, "sum", ((0, 66),)),
    "8": (2500, 12, 512, "sum", ((0, 66),)),
    "9": (850, 12, 512, "sum", ((0, 66),)),
    "10": (4000, 12, 512, "sum", ((0, 66),)),
}
RATES = {"5": 1e-2, "6": 1e-2, "7": 1.5e-2, "8": 1.2e-2, "9": 1.2e-2, "10": 1e-2}


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
    if int(stage) >= 4:
        config.train.schedule = "cosine"
    if stage in RATES:
        config.train.learning_rate = RATES[stage]
    if int(stage) >= 6:
        config.data.repeats = 0.6  # where a stretch comes twice is where copies still failed
    return config
