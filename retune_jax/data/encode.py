r"""One context as one training sequence: token ids, and apart from them the token to predict at each place.

The authors train one sequence a segment: everything before the segment, then the segment, with the loss on the segment.
The sequences of one context share their beginnings, so here the context is one sequence. That takes *targets kept apart
from inputs*: where a segment ends, the model has to predict the end-of-sequence token (EOS), while the next token it
reads is the first of the text that the decoder pastes. With one token a word, and `·` where the weight is 0::

    reads      BOS  What  is  …  Solution:  Call:  …  [1]?  \n   Return:  1  Answer:  1
    predicts   ·    ·     ·   ·  Call:      What   …  \n    EOS  ·        ·  1        EOS

A causal model's logits at a place do not depend on what follows, so the loss and its gradient are those of the authors'
sequences, in about half the tokens (`tests/test_data_encode.py` holds the two against each other).

Shape suffix: T tokens of the context.
"""

import numpy as np

# What a generated token weighs in the loss, by how many its segment has.
LOSSES = {"sum": lambda tokens: 1.0, "mean": lambda tokens: 1 / tokens, "root": lambda tokens: tokens**-0.5}


def encode(tokenizer, example: dict, weigh: str) -> dict:
    """Turns an example into whole-context arrays.

    Args:
        tokenizer: a `retune_jax.tokenizer.Tokenizer`: `encode(text)` adds no BOS or EOS; `bos` and `eos` are ids.
        example: {"inputs", "outputs"}: lists of equal length; `inputs[i]` is the text before `outputs[i]`, never empty.
        weigh: "sum" gives each generated token weight 1, as the authors' released code does (summed over a segment,
            averaged over segments); "mean" gives each segment weight 1, shared equally by its tokens; "root", between the
            two, gives each segment the square root of its length.

    Returns:
        tokens_T int32, what the model reads: BOS, then all text; EOS is never read.
        targets_T int32, the token to predict at each place: the next generated one, or EOS; EOS too where none is.
        weights_T float32, the share of each place in the loss, 0 where nothing is predicted.
        segments int, the number of generated segments: the loss is Σ weight · cross-entropy / Σ segments.
    """
    tokens, targets, weights = [tokenizer.bos], [tokenizer.eos], [0.0]
    for before, generated in zip(example["inputs"], example["outputs"], strict=True):
        before, generated = tokenizer.encode(before), tokenizer.encode(generated)
        predicted = len(generated) + 1  # EOS too
        tokens += before
        tokens += generated
        # The last token of `before` predicts the first generated one.
        targets += [tokenizer.eos] * (len(before) - 1)
        targets += generated
        targets.append(tokenizer.eos)
        weights += [0.0] * (len(before) - 1)
        weights += [LOSSES[weigh](predicted)] * predicted
    return {
        "tokens_T": np.array(tokens, np.int32),
        "targets_T": np.array(targets, np.int32),
        "weights_T": np.array(weights, np.float32),
        "segments": len(example["outputs"]),
    }
