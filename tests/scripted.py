"""Models for tests of the decoder, whose next token is known exactly.

`ScriptedModel` knows no language: it looks the next token up by the whole context so far. Its "keys and values" are one number
per token, and what it looks up is a hash of *all* numbers up to the present token, so that a single wrong entry of the cache (a
caller restored from the wrong place, a guess not overwritten) makes it lose the thread and write rubbish.

Shapes: B slots, C tokens of a step, W window, N known contexts, V vocabulary.
"""

from collections.abc import Iterable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from retune_jax.protocol import Context


def scatter(bits):
    """A bijection of uint32 that leaves no pattern; the same in NumPy and JAX."""
    bits = (bits ^ (bits >> 16)) * np.uint32(0x7FEB352D)
    bits = (bits ^ (bits >> 15)) * np.uint32(0x846CA68B)
    return bits ^ (bits >> 16)


def entry(token, position):
    """The number that stands for a token at a position; the hash of a context is the sum of its entries."""
    return scatter(scatter(token + np.uint32(1)) + position * np.uint32(0x9E3779B9))


class PrefixModel(nnx.Module):
    """A model whose logits depend on the hash of all tokens so far, in the way of a subclass."""

    def __init__(self, vocab_size: int):
        self.vocab_size = vocab_size

    def init_cache(self, batch: int, window: int):
        return (jnp.zeros((1, batch, 1, window, 1), jnp.uint32),)

    def step(self, tokens_BC, start_B, cache):
        count, window = tokens_BC.shape[1], cache[0].shape[3]
        at_BC = (start_B[:, None] + jnp.arange(count)).astype(jnp.uint32)
        new_BC = entry(tokens_BC.astype(jnp.uint32), at_BC)
        put = jax.vmap(lambda old, new, at: jax.lax.dynamic_update_slice(old, new, (at,)))
        entries_BW = put(cache[0][0, :, 0, :, 0], new_BC, start_B)
        old_B = jnp.where(jnp.arange(window) < start_B[:, None], entries_BW, 0).sum(1, dtype=jnp.uint32)
        hash_BC = old_B[:, None] + jnp.cumsum(new_BC, axis=1, dtype=jnp.uint32)
        return self.logits(hash_BC), (entries_BW[None, :, None, :, None],)


class ScriptedModel(PrefixModel):
    """Writes what a script says: a mapping from the ids of a context so far to the next id. Off the script, `lost` for ever."""

    def __init__(self, script: Mapping[tuple[int, ...], int], vocab_size: int, lost: int):
        super().__init__(vocab_size)
        self.lost = lost
        hashes_N = np.array([hash_of(ids) for ids in script], np.uint32)
        assert len(set(hashes_N.tolist())) == len(script), "two contexts of the script have the same hash"
        order_N = np.argsort(hashes_N)
        self.known_N = nnx.Variable(jnp.asarray(hashes_N[order_N]))
        self.next_N = nnx.Variable(jnp.asarray(np.array(list(script.values()), np.int32)[order_N]))

    def logits(self, hash_BC):
        known_N, next_N = self.known_N[...], self.next_N[...]
        at_BC = jnp.clip(jnp.searchsorted(known_N, hash_BC), 0, known_N.shape[0] - 1)
        next_BC = jnp.where(known_N[at_BC] == hash_BC, next_N[at_BC], self.lost)
        return jax.nn.one_hot(next_BC, self.vocab_size, dtype=jnp.float32)


class RandomModel(PrefixModel):
    """Logits without rhyme or reason, but a function of the whole context; `bias_V` makes some tokens likelier."""

    def __init__(self, bias_V: np.ndarray, salt: int):
        super().__init__(len(bias_V))
        self.bias_V = nnx.Variable(jnp.asarray(bias_V, jnp.float32))
        self.salt = salt

    def logits(self, hash_BC):
        tokens_V = jnp.arange(self.vocab_size, dtype=jnp.uint32) + np.uint32(self.salt)
        bits_BCV = scatter(hash_BC[..., None] ^ scatter(tokens_V))
        return bits_BCV.astype(jnp.float32) * 2.0**-32 + self.bias_V[...]


def hash_of(ids: Iterable[int]) -> int:
    """The hash that `PrefixModel` gives a context of these ids."""
    ids = np.array(list(ids), np.uint32)
    return int(entry(ids, np.arange(len(ids), dtype=np.uint32)).sum(dtype=np.uint32))


def script_of(tokenizer, contexts: Iterable[Context], opening: str) -> dict[tuple[int, ...], int]:
    """What a model has to write after what, so that decoding each context's prompt replays its tree."""
    script = {}
    for tree in contexts:
        for context in tree.walk():
            ids = [tokenizer.bos]
            for before, text in zip(context.inputs(opening), context.outputs()):
                ids += tokenizer.encode(before)
                for token in (*tokenizer.encode(text), tokenizer.eos):
                    assert script.setdefault(tuple(ids), token) == token, "two contexts go on differently"
                    ids.append(token)
                ids.pop()  # EOS is not kept
    return script
