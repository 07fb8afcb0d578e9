"""Solved once: a table on the device of subproblems and their values.

A greedy model gives the same prompt the same value, whoever asks. So the values of contexts that have returned are kept, by the
prompt's fingerprint; a call whose prompt is found gets the value pasted at once, as if its callee had just returned. Nothing of
the text changes, and nothing of the counts: tokens, calls, depth and stack of the subtree are kept with the value, and a call
whose subtree would pass one of its problem's limits is not answered from here, but runs into that limit itself.

The log of a problem then does not hold the subtree, but says where it is found: in the log of the problem that solved it, from
one place to another (`result.expand`).

The table is bounded, and newer entries take the place of older ones with the same hash. Two slots that open the same context
before either has returned both solve it. Values longer than `LONGEST` tokens are not kept. It lives as long as a run of the
decoder, and there is none where tokens are drawn: samples of one prompt have to differ.

Shapes: B slots, F open contexts, M entries, V tokens of a value.
"""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from retune_jax.decoding.config import DecoderConfig

LONGEST = 256


class Facts(NamedTuple):
    """What is known of a solved subproblem beside its value, int32; of many of them, arrays."""

    length: jax.Array  # tokens of the value
    spaced: jax.Array  # whether it begins with a space
    tokens: jax.Array  # generated in the whole subtree
    calls: jax.Array  # made in it
    depth: jax.Array  # its callers at a time, below the context itself
    stack: jax.Array  # tokens of the stack that they take
    problem: jax.Array  # whose log holds it,
    begin: jax.Array  # from here
    end: jax.Array  # to here


@partial(jax.tree_util.register_dataclass)
@dataclass(frozen=True)
class Memo:
    """The table, and what the open contexts have to remember for it.

    Attributes:
        key_M2: uint32 fingerprints of prompts; 0 where an entry is free.
        value_MV: int32 token ids.
        facts_MN: int32, `Facts` in order.
        begun_BF3: int32, of each open context: tokens, calls and length of the log when it opened.
        reach_BF2: int32, of each open context: the deepest depth and the highest stack below it so far.
    """

    key_M2: jax.Array
    value_MV: jax.Array
    facts_MN: jax.Array
    begun_BF3: jax.Array
    reach_BF2: jax.Array


def is_used(config: DecoderConfig) -> bool:
    """Whether a decoder of this configuration has a memo."""
    return config.memo > 0 and config.calls and config.temperature == 0


def create(config: DecoderConfig) -> Memo | None:
    """An empty table of `config.memo` entries; None for a decoder without."""
    if not is_used(config):
        return None
    entries, contexts = config.memo, (config.slots, config.max_depth + 1)
    return Memo(
        key_M2=jnp.zeros((entries, 2), jnp.uint32),
        value_MV=jnp.zeros((entries, min(config.window, LONGEST)), jnp.int32),
        facts_MN=jnp.zeros((entries, len(Facts._fields)), jnp.int32),
        begun_BF3=jnp.zeros((*contexts, 3), jnp.int32),
        reach_BF2=jnp.zeros((*contexts, 2), jnp.int32),
    )


def find(memo: Memo, prompt_B2) -> tuple[jax.Array, jax.Array, Facts]:
    """Whether the prompts are there, their values [B, V] and facts [B]."""
    entry_B = _entry(memo, prompt_B2)
    return (memo.key_M2[entry_B] == prompt_B2).all(-1), memo.value_MV[entry_B], Facts(*memo.facts_MN[entry_B].T)


def keep(memo: Memo, solved_B, prompt_B2, value_BV, facts: Facts) -> Memo:
    """The table with the values of the slots marked `solved`, as far as they are not too long."""
    entries, longest = memo.value_MV.shape
    entry_B = jnp.where(solved_B & (facts.length <= longest), _entry(memo, prompt_B2), entries)
    facts_BN = jnp.stack([jnp.broadcast_to(fact, entry_B.shape).astype(jnp.int32) for fact in facts], axis=1)
    # Two slots may write to one entry. All three arrays have to take the same one's: the last that asks for it.
    later_BB = (entry_B[:, None] == entry_B) & (jnp.arange(entry_B.shape[0])[:, None] < jnp.arange(entry_B.shape[0]))
    entry_B = jnp.where(later_BB.any(1), entries, entry_B)
    return Memo(
        key_M2=memo.key_M2.at[entry_B].set(prompt_B2, mode="drop"),
        value_MV=memo.value_MV.at[entry_B].set(value_BV, mode="drop"),
        facts_MN=memo.facts_MN.at[entry_B].set(facts_BN, mode="drop"),
        begun_BF3=memo.begun_BF3,
        reach_BF2=memo.reach_BF2,
    )


def _entry(memo: Memo, prompt_B2):
    return (prompt_B2[:, 0] % jnp.uint32(memo.key_M2.shape[0])).astype(jnp.int32)
