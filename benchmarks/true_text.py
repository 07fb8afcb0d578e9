"""A model of any shape that writes true solutions: random weights do the arithmetic, a table chooses the next token.

For timings of shapes whose weights are not at hand. The logits of the network are made as ever, and the token that the true
call tree goes on with gets so much more that it is chosen; so every pass costs what it would cost with trained weights.
"""

import itertools
from collections.abc import Iterable

import jax.numpy as jnp
import numpy as np
import prefix_hash
from flax import nnx

from retune_jax.protocol import SOLUTION, Context

SURE = 1e4  # more than any other token's logit


class TrueText(nnx.Module):
    """`network` with the text of some trees. Besides its keys and values it keeps a number a token, to know the context by."""

    def __init__(self, network: nnx.Module, tokenizer, trees: Iterable[Context]):
        self.network = network
        script = {}
        for tree in trees:
            for context in tree.walk():
                ids = [tokenizer.bos]
                for before, text in zip(context.inputs(SOLUTION), context.outputs()):
                    ids += tokenizer.encode(before)
                    for token in (*tokenizer.encode(text), tokenizer.eos):
                        script[tuple(ids)] = token
                        ids.append(token)
                    ids.pop()  # EOS is not kept
        for self.seed in itertools.count():
            known_N = np.array([prefix_hash.hash_of(ids, self.seed) for ids in script], np.uint32)
            if len(np.unique(known_N)) == len(known_N):
                break
        order_N = np.argsort(known_N)
        self.known_N = nnx.Variable(jnp.asarray(known_N[order_N]))
        self.next_N = nnx.Variable(jnp.asarray(np.array(list(script.values()), np.int32)[order_N]))

    def init_cache(self, batch: int, window: int):
        """As `Llama.init_cache`, and the numbers."""
        return prefix_hash.empty(batch, window), self.network.init_cache(batch, window)

    def step(self, tokens_BC, start_B, cache):
        """As `Llama.step`."""
        entries_B1W1, inner = cache
        logits_BCV, inner = self.network.step(tokens_BC, start_B, inner)
        hash_BC, entries_B1W1 = prefix_hash.extended(entries_B1W1, tokens_BC, start_B, self.seed)
        known_N, next_N = self.known_N[...], self.next_N[...]
        at_BC = jnp.clip(jnp.searchsorted(known_N, hash_BC), 0, known_N.shape[0] - 1)
        next_BC = jnp.where(known_N[at_BC] == hash_BC, next_N[at_BC], 0)
        chosen_BCV = jnp.arange(logits_BCV.shape[-1]) == next_BC[..., None]
        return logits_BCV + SURE * chosen_BCV, (entries_B1W1, inner)
