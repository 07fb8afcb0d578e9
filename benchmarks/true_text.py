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
        script = [_script(context, tokenizer) for tree in trees for context in tree.walk()]
        for self.seed in itertools.count():
            rows_N3 = np.unique(np.concatenate([_rows(ids, following, self.seed) for ids, following in script]), axis=0)
            hashes_N = rows_N3[:, 0]
            thrice = np.any(hashes_N[:-2] == hashes_N[2:])
            if not thrice and len(np.unique(rows_N3[:, :2], axis=0)) == len(rows_N3):
                break  # no hash has three rows, and of two rows their lengths tell them apart
        self.known_N = nnx.Variable(jnp.asarray(hashes_N.astype(np.uint32)))
        self.length_N = nnx.Variable(jnp.asarray(rows_N3[:, 1], jnp.int32))
        self.next_N = nnx.Variable(jnp.asarray(rows_N3[:, 2], jnp.int32))

    def init_cache(self, batch: int, window: int):
        """As `Llama.init_cache`, and the numbers."""
        return prefix_hash.empty(batch, window), self.network.init_cache(batch, window)

    def step(self, tokens_BC, start_B, cache):
        """As `Llama.step`."""
        entries_B1W1, inner = cache
        logits_BCV, inner = self.network.step(tokens_BC, start_B, inner)
        hash_BC, entries_B1W1 = prefix_hash.extended(entries_B1W1, tokens_BC, start_B, self.seed)
        known_N, length_N, next_N = self.known_N[...], self.length_N[...], self.next_N[...]
        length_BC = start_B[:, None] + jnp.arange(1, 1 + tokens_BC.shape[1])
        first_BC, next_BC = jnp.searchsorted(known_N, hash_BC), jnp.zeros_like(tokens_BC)
        for at_BC in (first_BC, first_BC + 1):  # beyond the end the last one is read, which another hash or length rules out
            found_BC = (known_N[at_BC] == hash_BC) & (length_N[at_BC] == length_BC)
            next_BC = jnp.where(found_BC, next_N[at_BC], next_BC)
        chosen_BCV = jnp.arange(logits_BCV.shape[-1]) == next_BC[..., None]
        return logits_BCV + SURE * chosen_BCV, (entries_B1W1, inner)


def _script(context: Context, tokenizer) -> tuple[list[int], dict[int, int]]:
    """The ids of a context, and by how many of them are there, what is to be generated next."""
    ids, following = [tokenizer.bos], {}
    for before, text in zip(context.inputs(SOLUTION), context.outputs()):
        ids += tokenizer.encode(before)
        for token in (*tokenizer.encode(text), tokenizer.eos):
            following[len(ids)] = token
            ids.append(token)
        ids.pop()  # EOS is not kept
    return ids, following


def _rows(ids: list[int], following: dict[int, int], seed: int) -> np.ndarray:
    """int64 [N, 3]: hash and length of what stands before a generated token, and the token."""
    lengths_N = np.array([*following])
    hashes_N = prefix_hash.hashes_of(ids, seed)[lengths_N - 1].astype(np.int64)
    return np.stack([hashes_N, lengths_N, [*following.values()]], axis=1)
