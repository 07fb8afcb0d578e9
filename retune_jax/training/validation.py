"""The loss on the validation split: fresh problems of the trained lengths, by which the best checkpoints are chosen."""

from functools import partial

import jax
from jax.sharding import NamedSharding

from retune_jax.data import pipeline
from retune_jax.models import sharding
from retune_jax.training import loss

BATCHES = 4  # of the size of training's; a small split comes more than once


class Validation:
    """The validation split, packed and on the devices, and the compiled loss."""

    def __init__(self, source, tokenizer, config, graphdef, mesh):
        """Makes the batches of `source`; the same ones for every run with this data and this shape of a batch."""
        stream = pipeline.train_batches(
            source,
            tokenizer,
            sequence_length=config.data.sequence_length,
            context_length=config.data.context_length,
            rows=config.train.rows,
            weigh=config.train.loss,
            seed=config.seed,
        )
        over = NamedSharding(mesh, sharding.BATCH)
        self.batches = [pipeline.place(next(stream), over) for _ in range(BATCHES)]
        stream.close()
        self.sums = jax.jit(partial(loss.sums, graphdef=graphdef))

    def loss(self, params, frozen) -> float:
        """Nats a segment, without dropout, over all batches."""
        parts = [self.sums(params, frozen, batch, None) for batch in self.batches]
        return float(sum(part for part, _ in parts) / sum(counts["segments"] for _, counts in parts))
