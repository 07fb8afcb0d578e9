r"""Guessing tokens: what a context says next has mostly been said before.

A call repeats most of its prompt, an answer most of the returned value, and the words around them are those of every other
context of the task. Guesses are only ever *verified*, in the pass of the model that they ride along with: they change how many
tokens a pass yields, never which.

Copies. `source` is the place in the window from which the next token would be copied. In parity,

     What is the parity of [0, 1, 1]?\nSolution: Call: What is the parity of [

the copy of the prompt has arrived at the first item, and copying on guesses `0`; but the model drops that item and writes `1`.
It does so in every context. So there is a memory of how copies go on after two tokens, here ` of` and ` [`: a score for each
jump (the next token, the one behind it, …) and for each with its leading space put on or taken off (the first digit of a sum
is `▁5` where it was `5`). When a guess was wrong, the jumps that would have been right at that place gain, the others lose.
After a few mistakes in any slot, all contexts skip the first item. Behind a returned value, a token that no jump explains is
taken for one put in (a sum grows by a digit), and elsewhere for one that stands in another's place.

Words. A second memory holds what followed three tokens; twice the same is good enough for a guess where no long copy is
running. ` Call with array minus first element. Call:` is known after two contexts that said so. How an answer begins is
remembered by what it is often a function of (`clue`): in parity, the value that came back and the bit that the call left out.

A pass begins at the running copy, or where the window has a longer run that equals its end, and guesses token by token: words
that are known, else the copy; where there is none, one begins behind the first place with the same two last tokens, and
behind `Call:`, with the prompt.

With the tiny tokenizer and 16 tokens a step, a context takes 4.8 passes for parity of 20 bits, 7.8 for addition of 20 digits
and 17 for dynamic programming of 12 items.

Shapes: B slots, X indices of a window, C guesses, R tokens of a run, N jumps, K entries of a memory.
"""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from retune_jax.decoding.reading import Tables, Words
from retune_jax.decoding.state import Slots, mix, pick, take

RUN = 12  # longest run that is compared; a longer one is no better
# Points of a place to copy from: for each token of a run, for being the running copy, for that if the last guess was right.
TOKEN, SOURCE, HELD = 10, 25, 100
WEAK, STRONG = 20, 40  # fewer points are no copy; so many are not interrupted by known words
JUMPS = np.array([0, 1, 2, 3, 4, 5, 6, -1] * 2, np.int32)  # the second half puts a leading space on or takes it off
RESPACED = np.arange(len(JUMPS)) >= len(JUMPS) // 2
MOST_SCORE = 8
CLUED = 2  # first tokens of an answer that are remembered by its clue
WORDS, COPIES = 1 << 14, 1 << 12  # entries


@partial(jax.tree_util.register_dataclass)
@dataclass(frozen=True)
class Memory:
    """What the guesses of all slots have taught. Changes speed, never text; int32.

    Attributes:
        words_K2: by a hash of three tokens: the token that followed, and how sure that is, 0 to 3.
        jumps_KN: by a hash of two tokens and of what kind of segment they stand in: the score of each jump.
    """

    words_K2: jax.Array
    jumps_KN: jax.Array

    @classmethod
    def empty(cls) -> "Memory":
        """Nothing learned: a copy goes on with the next token."""
        return cls(jnp.zeros((WORDS, 2), jnp.int32), jnp.zeros((COPIES, len(JUMPS)), jnp.int32).at[:, 0].set(2))


class Guesses(NamedTuple):
    """A step's guesses, and how they came about; a column for each token behind `known`."""

    tokens_BC: jax.Array
    source_BC: jax.Array  # where the copy stood, 0: there was none
    jump_BC: jax.Array  # index of the jump that it took
    copy_BC: jax.Array  # entry of the memory of jumps
    word_BC: jax.Array  # entry of the memory of words


def guess(words: Words, tables: Tables, memory: Memory, slots: Slots, count: int) -> tuple[jax.Array, Guesses]:
    """Fills `count` places of each window above `known` with guesses: returns the new tokens_BX and the guesses."""
    at_BX = jax.lax.broadcasted_iota(jnp.int32, slots.tokens_BX.shape, 1)
    known_B = slots.known_B
    before_BX = jnp.pad(slots.tokens_BX, ((0, 0), (1, 0)), constant_values=-1)[:, :-1]
    before2_BX = jnp.pad(slots.tokens_BX, ((0, 0), (2, 0)), constant_values=-1)[:, :-2]
    usable_BX = (at_BX > 1) & (at_BX < known_B[:, None])
    end_B3 = take(slots.tokens_BX, known_B[:, None] - jnp.array([3, 2, 1]))
    source_B, strong_B = _begin(slots)

    def add(carry, number):
        tokens_BX, source_B, strong_B, third_B, second_B, last_B = carry
        found_BX = usable_BX & (before_BX == last_B[:, None]) & (before2_BX == second_B[:, None])
        found_B = jnp.min(jnp.where(found_BX, at_BX, at_BX.shape[1]), axis=1)
        called_B = (last_B == words.call[-1]) & ((second_B == words.call[-2]) if len(words.call) > 1 else True)
        first_B = jnp.where(found_B < at_BX.shape[1], found_B, called_B.astype(jnp.int32))
        source_B = jnp.where(source_B > 0, source_B, first_B)
        copy_B = _entry(COPIES, slots.returned_B, second_B, last_B)
        jump_B = jnp.where(source_B > 0, jnp.argmax(memory.jumps_KN[copy_B], axis=1), 0).astype(jnp.int32)
        copied_B = _jumped(tables, tokens_BX, source_B[:, None], jump_B[:, None], (known_B + number)[:, None])[:, 0]
        copies_B = (source_B > 0) & (copied_B >= 0)
        answers_B = (slots.clue_B > 0) & (known_B + number < slots.segment_B + CLUED)
        word_B = _entry(WORDS, jnp.where(answers_B, slots.clue_B, third_B), second_B, last_B)
        known_word_B, sure_B = memory.words_K2[word_B].T
        says_B = ((sure_B >= 2) & ~(copies_B & strong_B)) | ~copies_B | (answers_B & (sure_B >= 3))
        token_B = jnp.where(says_B, known_word_B, copied_B)
        goes_on_B = (source_B > 0) & (token_B == copied_B)
        trace = token_B, source_B, jump_B, copy_B, word_B
        tokens_BX = jnp.where(at_BX == (known_B + number)[:, None], token_B[:, None], tokens_BX)
        source_B = jnp.where(goes_on_B, source_B + jnp.asarray(JUMPS)[jump_B] + 1, 0)
        return (tokens_BX, source_B, strong_B & goes_on_B, second_B, last_B, token_B), trace

    start = (slots.tokens_BX, source_B, strong_B, *end_B3.T)
    (tokens_BX, *_), trace = jax.lax.scan(add, start, jnp.arange(count))
    return tokens_BX, Guesses(*(column.T for column in trace))


def clue(tokens_BX, value_B, differs_B):
    """What an answer is often a function of: the value's first two tokens (one may be a space), and the caller's token at the
    first place where its callee differs, such as the bit of a list that the call left out. Above any token."""
    item_B = pick(tokens_BX, jnp.minimum(differs_B, value_B - 1))
    return _entry(1 << 30, pick(tokens_BX, value_B), pick(tokens_BX, value_B + 1), item_B) + (1 << 30)


def learn(tables: Tables, eos: int, memory: Memory, slots: Slots, guesses: Guesses, new_B, last_B):
    """What `new` tokens, the last of which is `last`, say about the guesses: the memory, and each slot's next source.

    Args:
        slots: as they were when the tokens were guessed, with the guesses in their windows.
        guesses: of that step.
        new_B: how many tokens were taken over: guesses that held, and one more.
        last_B: that one.
    """
    number_C = jnp.arange(guesses.tokens_BC.shape[1])
    true_BC = jnp.where(number_C == new_B[:, None] - 1, last_B[:, None], guesses.tokens_BC)
    word_BC2 = memory.words_K2[guesses.word_BC]
    said_BC, sure_BC = word_BC2[..., 0], word_BC2[..., 1]
    right_BC, fresh_BC = said_BC == true_BC, sure_BC <= 0
    said_BC = jnp.where(fresh_BC, true_BC, said_BC)
    sure_BC = jnp.where(right_BC, jnp.minimum(sure_BC + 1, 3), jnp.where(fresh_BC, 1, sure_BC - 2))
    entry_BC = jnp.where(number_C < new_B[:, None], guesses.word_BC, WORDS)
    words_K2 = memory.words_K2.at[entry_BC].set(jnp.stack([said_BC, sure_BC], -1), mode="drop")

    at_B = jnp.maximum(new_B - 1, 0)
    source_B, jump_B, copy_B = (pick(x, at_B) for x in (guesses.source_BC, guesses.jump_BC, guesses.copy_BC))
    end_B1 = (slots.known_B + at_B)[:, None]
    jumps_BN = jnp.broadcast_to(jnp.arange(len(JUMPS)), (source_B.shape[0], len(JUMPS)))
    right_BN = _jumped(tables, slots.tokens_BX, source_B[:, None], jumps_BN, end_B1) == last_B[:, None]
    score_BN = memory.jumps_KN[copy_B]
    learned_BN = jnp.clip(score_BN + jnp.where(right_BN, 1, -2), -MOST_SCORE, MOST_SCORE)
    teaches_B = (new_B > 0) & (source_B > 0) & (last_B != eos)
    jumps_KN = memory.jumps_KN.at[jnp.where(teaches_B, copy_B, COPIES)].set(learned_BN, mode="drop")

    best_B = jnp.argmax(jnp.where(right_BN, score_BN, -2 * MOST_SCORE), axis=1).astype(jnp.int32)
    held_B = pick(right_BN, jump_B)
    best_B = jnp.where(held_B, jump_B, best_B)
    explained_B = pick(right_BN, best_B)
    put_in_B = ~held_B & (slots.returned_B > 0) & ~(explained_B & (pick(score_BN, best_B) > 1))
    step_B = jnp.where(put_in_B, 0, 1 + jnp.where(explained_B, jnp.asarray(JUMPS)[best_B], 0))
    source_B = jnp.where(source_B > 0, source_B + step_B, 0)
    return Memory(words_K2, jumps_KN), jnp.where(new_B > 0, source_B, slots.source_B)


def _begin(slots: Slots) -> tuple[jax.Array, jax.Array]:
    """The index of each window from which to copy first, 0 for none, and whether it is a good one."""
    tokens_BX, known_B1, source_B1 = slots.tokens_BX, slots.known_B[:, None], slots.source_B[:, None]
    at_BX = jax.lax.broadcasted_iota(jnp.int32, tokens_BX.shape, 1)
    end_BR = take(tokens_BX, known_B1 - 1 - jnp.arange(RUN))
    padded_BX = jnp.pad(tokens_BX, ((0, 0), (RUN, 0)), constant_values=-1)
    equal_BX = jnp.ones(tokens_BX.shape, bool)
    run_BX = jnp.zeros_like(tokens_BX)
    for back in range(RUN):
        start = RUN - 1 - back
        equal_BX &= padded_BX[:, start : start + tokens_BX.shape[1]] == end_BR[:, back : back + 1]
        run_BX += equal_BX
    held_B1 = (source_B1 > 0) & (take(tokens_BX, source_B1 - 1) == end_BR[:, :1])
    points_BX = TOKEN * run_BX + jnp.where(at_BX == source_B1, SOURCE + jnp.where(held_B1, HELD, 0), 0)
    points_BX = jnp.where((at_BX > 0) & (at_BX < known_B1), points_BX, -1)
    most_B = points_BX.max(1)
    first_B = jnp.min(jnp.where(points_BX == most_B[:, None], at_BX, tokens_BX.shape[1]), axis=1)
    # A context that has just opened has nothing to go on with.
    goes_on_B = (slots.source_B > 0) | (slots.known_B > slots.segment_B)
    return jnp.where(goes_on_B & (most_B >= WEAK), first_B, 0), goes_on_B & (most_B >= STRONG)


def _jumped(tables: Tables, tokens_BX, source_B1, jump_BN, end_B1):
    """The tokens that the jumps lead to, [B, N]; -1 where there is none before `end`."""
    at_BN = source_B1 + jnp.asarray(JUMPS)[jump_BN]
    token_BN = take(tokens_BX, at_BN)
    token_BN = jnp.where(jnp.asarray(RESPACED)[jump_BN], tables.respaced_V[token_BN], token_BN)
    return jnp.where((at_BN >= 0) & (at_BN < end_B1), token_BN, -1)


def _entry(entries: int, *parts_B):
    """The entry of a memory for some numbers."""
    key_B = jnp.uint32(1)
    for part_B in parts_B:
        key_B = mix(key_B * jnp.uint32(0x9E3779B1) + part_B.astype(jnp.uint32))
    return (key_B % jnp.uint32(entries)).astype(jnp.int32)
