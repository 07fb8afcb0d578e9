"""The input pipeline: an endless, resumable stream of packed batches out of any random-access source of examples.

    source -> shuffle -> mix with replay -> encode, positions -> pack -> batch -> prefetch in a thread

An example is {"inputs": list of str, "outputs": list of str}: `inputs[i]` is the text before the generated
`outputs[i]`. A source is anything with `__len__` and `__getitem__`: a split of a prepared data set, or a plain list.
What comes out is a function of the source, the arguments and the number of batches taken, so that the state of the
iterator is a few numbers, and a restored one goes on bit for bit.

Every process of a run makes the whole of it and puts the rows on its own devices (`place`). What a row holds depends on
all contexts before it, so that shares packed apart would make other batches for another number of processes, and a state
of their own. So the batches and the state are the same on one process and on many, and a run goes on under another number
of them with no example lost or repeated. The price is host time, not traffic: docs/scaling.md has the figures.

Shape suffixes: B rows, T tokens of a row.
"""

import statistics

import grain
import jax
import numpy as np

from retune_jax.data.encode import encode
from retune_jax.data.gaps import positions
from retune_jax.data.mixture import Mixture, Replay
from retune_jax.data.packing import pack, packable
from retune_jax.errors import UserError

# Batches made ahead, so that the host works while the device does.
PREFETCHED = 2
DRAW = "draw"  # field of an example whose positions are to have gaps: the seed of what is drawn
SAMPLED = 1000  # examples from which the tokens of a step's examples are estimated


def train_batches(
    source,
    tokenizer,
    *,
    sequence_length: int,
    context_length: int,
    rows: int,
    weigh: str,
    seed: int,
    shuffle: bool = True,
    replay: Replay | None = None,
    gaps: int = 0,
    gaps_after: int = 0,
    workers: int = 0,
) -> grain.DatasetIterator:
    """Makes the stream of training batches.

    Args:
        source: random access to examples; not empty.
        tokenizer: a `retune_jax.tokenizer.Tokenizer`.
        sequence_length: tokens a row.
        context_length: tokens of the longest context that may come.
        rows: rows of the batch, over all processes.
        weigh: the loss weights, a name out of `encode`'s `LOSSES`.
        seed: of the order; each epoch has its own.
        shuffle: False keeps the source's order (for a source whose order is a curriculum).
        replay: what to mix in, unshuffled. It begins at the example that is about the first of its step: how many
            examples fill a step is estimated from the first ones.
        gaps: positions that a context of the source may take, with gaps (gaps.py); 0: as many as it has tokens.
        gaps_after: step from about which there are any.
        workers: processes that share the work, each with every so-manieth example and batches of its own; 0: a thread of this
            process. The stream depends on their number.

    Returns:
        Iterator of dictionaries of numpy arrays: tokens_BT, targets_BT, segment_ids_BT (1, 2, … within a row, 0 for
        padding), positions_BT (rising from 0 in each context), all int32, weights_BT float32, and segments_B int32 (generated
        segments in each row). `get_state()` gives a dictionary that JSON can hold, `set_state(state)` goes on from
        there. `close()` ends the prefetching thread.

    Raises:
        UserError: while iterating, a context that is longer than `context_length`.
    """
    examples = grain.MapDataset.source(source).seed(seed)
    if shuffle:
        examples = examples.shuffle()
    examples = examples.repeat()
    steps = {"replay": replay.after if replay else 0, "gaps": gaps_after if gaps else 0}
    begin = dict.fromkeys(steps, 0)  # indices in the stream
    if any(steps.values()):
        first = [encode(tokenizer, examples[i], weigh) for i in range(SAMPLED)]
        per_step = rows * sequence_length / statistics.fmean(len(encoded["tokens_T"]) for encoded in first)
        begin = {name: round(step * per_step) for name, step in steps.items()}
    if gaps:
        shared = max(0, begin["gaps"] - begin["replay"]) * (replay.share if replay else 0)
        own = begin["gaps"] - round(shared)  # index among the source's examples
        examples = examples.map_with_index(lambda i, example: {**example, DRAW: (seed, i)} if i >= own else example)
    if replay:
        examples = grain.MapDataset.source(Mixture(examples, replay.source, replay.share, begin["replay"]))
    encoder = Encoder(tokenizer, min(context_length, sequence_length), weigh, gaps)
    # One thread does it all, at the end of the chain: the work holds the interpreter's lock.
    contexts = examples.map(encoder).to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0))
    packed = pack(contexts, sequence_length, seed=seed, shuffle=shuffle)
    batches = packed.batch(rows).map(_batch)
    if workers:
        return iter(batches.mp_prefetch(grain.MultiprocessingOptions(workers, per_worker_buffer_size=PREFETCHED)))
    return iter(grain.experimental.ThreadPrefetchIterDataset(batches, prefetch_buffer_size=PREFETCHED))


def place(batch: dict, sharding: jax.sharding.Sharding) -> dict:
    """A batch on the devices, its rows laid out by `sharding`; each process hands over the rows of its own devices."""
    return {name: jax.make_array_from_callback(x.shape, sharding, x.__getitem__) for name, x in batch.items()}


class Encoder(grain.transforms.Map):
    """`encode` as a step of the pipeline, which names a context that does not fit."""

    def __init__(self, tokenizer, context_length: int, weigh: str, span: int):
        self.tokenizer = tokenizer
        self.context_length = context_length
        self.weigh = weigh
        self.span = span

    def map(self, element: dict) -> dict:
        """Example to arrays; raises UserError for one that is too long."""
        encoded = encode(self.tokenizer, element, self.weigh)
        length = len(encoded["tokens_T"])
        if length > self.context_length:
            raise UserError(
                f"config.data.context_length: a context of {length} tokens does not fit into "
                f"{self.context_length}: {element['inputs'][0].strip()!r}"
            )
        if DRAW in element:
            return packable(encoded, positions(np.random.default_rng(element[DRAW]), length, self.span))
        return packable(encoded, np.arange(length))


def _batch(rows: dict) -> dict:
    names = {name: f"{name}_B" if name == "segments" else name.replace("_T", "_BT") for name in rows}
    return {names[name]: array for name, array in rows.items()}
