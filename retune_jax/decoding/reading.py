r"""`retune_jax.protocol.read` on the device: what a finished segment means, for all slots at once, from token ids.

A segment is a call when its text holds `Call:`, but a tokenizer may cut that word anywhere: `▁Call` `:`, or `Cal` `l`
`:`, or byte by byte. So `Call:` and `Answer:` are searched for in bytes. An automaton (Aho and Corasick, 1975) reads
the two words; its state is how much of either has just been read. Pieces are strings of bytes, so one table can say for
each (state, token) which state follows and whether a word was completed on the way:

    state          token      next state     event
    ""             "▁Call"    "Call"
    "Call"         ":"        "Call:"        Call: ends here
    ""             "An"       "An"
    "An"           "swer:▁"   ""             Answer: ends here

What has been read of a word that is not complete is at most six bytes, so the state before a token depends on the six
pieces before it and on no others: every position looks six pieces back, all positions side by side, and nothing has to
be carried from step to step.

The prompt or value lies between two token indices, without the blank pieces at its ends. Where pieces allow, that is
the text that `protocol.read` finds. They do not where the word ends inside a piece that goes on with something else
(`:[`): such a segment is `bad_call`. Where a piece at either end mixes text with outer blanks (`",▁"`), the blanks
stay.

Shapes: B slots, X indices of a window, V pieces, S states of the automaton, K pieces looked back.
"""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from retune_jax.decoding.state import pick, take
from retune_jax.protocol import ANSWER, CALL, paste

# Events of a token: a word was completed in it, cleanly, or with more text behind it in the same piece.
NOTHING, CALLED, CALLED_INSIDE, ANSWERED, ANSWERED_INSIDE = range(5)
STATES = 16  # a power of two, so that a table entry holds event * STATES + state
LOOK_BACK = max(len(CALL), len(ANSWER)) - 1


@dataclass(frozen=True)
class Words:
    """Token ids that the decoder itself writes: static, part of the compiled program."""

    bos: int
    eos: int
    space: tuple[int, ...]
    opening: tuple[int, ...]
    returned: tuple[int, ...]  # "Return:"
    answer: tuple[int, ...]  # "\nAnswer:"
    call: tuple[int, ...]  # " Call:", as a guess only

    @classmethod
    def of(cls, tokenizer, opening: str) -> "Words":
        """The words as that tokenizer cuts them. Splicing ids must equal encoding the spliced text."""
        returned, answer = paste("…").split(" …")
        texts = (" ", opening, returned, answer, f" {CALL}")
        return cls(tokenizer.bos, tokenizer.eos, *(tuple(int(i) for i in tokenizer.encode(text)) for text in texts))


@partial(jax.tree_util.register_dataclass)
@dataclass(frozen=True)
class Tables:
    """What the device knows about each piece. The last row or column, V, stands for "no piece"."""

    after_SV: jax.Array  # int32, event * STATES + next state
    text_V: jax.Array  # bool, stands for at least one byte; control pieces do not and are looked through
    blank_V: jax.Array  # bool, nothing but white space
    newline_V: jax.Array  # bool, ends with a newline
    spaced_V: jax.Array  # bool, begins with a space
    respaced_V: jax.Array  # int32, the piece with a leading space put on or taken off, -1 if there is none

    @classmethod
    def of(cls, pieces: list[bytes]) -> "Tables":
        """Tables of a tokenizer whose ids stand for these bytes."""
        ids = {piece: id for id, piece in enumerate(pieces) if piece.strip()}
        pieces = [*pieces, b""]
        blank = [not piece.decode(errors="replace").strip() for piece in pieces]
        return cls(
            after_SV=jnp.asarray(_table(pieces)),
            text_V=jnp.array([bool(piece) for piece in pieces]),
            blank_V=jnp.array(blank),
            newline_V=jnp.array([piece.endswith(b"\n") for piece in pieces]),
            spaced_V=jnp.array([piece.startswith(b" ") for piece in pieces]),
            respaced_V=jnp.array([ids.get(piece[1:] if piece.startswith(b" ") else b" " + piece, -1) for piece in pieces]),
        )


def _automaton() -> tuple[np.ndarray, np.ndarray]:
    """Next state for each (state, byte), with a byte 256 that changes nothing, and the event of entering each state."""
    words = {CALL.encode(): CALLED, ANSWER.encode(): ANSWERED}
    states = [b"", *(word[:end] for word in words for end in range(1, len(word) + 1))]
    follows = np.zeros((STATES, 257), np.int32)
    event = np.zeros(STATES, np.int32)
    for index, state in enumerate(states):
        event[index] = words.get(state, NOTHING)
        follows[index, 256] = index
        for byte in range(256):
            read = state + bytes([byte])
            longest = next(read[start:] for start in range(len(read) + 1) if read[start:] in states)
            follows[index, byte] = states.index(longest)
    return follows, event


def _table(pieces: list[bytes]) -> np.ndarray:
    """Runs the automaton over every piece from every state, a byte of all pieces at a time."""
    follows, event = _automaton()
    longest = max(map(len, pieces))
    padded_VN = np.full((len(pieces), longest), 256, np.int32)
    for row, piece in zip(padded_VN, pieces):
        row[: len(piece)] = np.frombuffer(piece, np.uint8)
    # Is everything from byte n on blank? Cheap for ASCII, which is all that the rule about `Call:` needs to be exact for.
    blank_VN = np.isin(padded_VN, [*b" \t\n\r\v\f\x1c\x1d\x1e\x1f", 256])
    rest_blank_VN = np.flip(np.logical_and.accumulate(np.flip(blank_VN, 1), 1), 1)
    rest_blank_VN = np.concatenate([rest_blank_VN, np.ones((len(pieces), 1), bool)], 1)
    table_SV = np.zeros((STATES, len(pieces)), np.int32)
    for start in range(STATES):
        state_V = np.full(len(pieces), start, np.int32)
        event_V = np.zeros(len(pieces), np.int32)
        for n in range(longest):
            read_V = padded_VN[:, n] != 256
            state_V = follows[state_V, padded_VN[:, n]]
            found_V = np.where(read_V, event[state_V], NOTHING)
            found_V += (found_V > 0) & ~rest_blank_VN[:, n + 1]
            # A call anywhere makes the segment a call, so an `Answer:` in the same piece says nothing any more.
            takes_V = (found_V > 0) & ((found_V <= CALLED_INSIDE) | ~np.isin(event_V, (CALLED, CALLED_INSIDE)))
            event_V = np.where(takes_V, found_V, event_V)
        table_SV[start] = event_V * STATES + state_V
    return table_SV


class Reading(NamedTuple):
    """What each slot's segment means. `low:high` are the window indices of the callee's prompt or of the value."""

    is_call_B: jax.Array
    is_bad_B: jax.Array
    low_B: jax.Array
    high_B: jax.Array
    spaced_B: jax.Array  # the range begins with a space of its own


def read(tables: Tables, tokens_BX, begin_B, end_B) -> Reading:
    """Reads the segments tokens_BX[b, begin_B[b]:end_B[b]], EOS not among them."""
    nothing = tables.text_V.shape[0] - 1
    at_BX = jax.lax.broadcasted_iota(jnp.int32, tokens_BX.shape, 1)
    inside_BX = (at_BX >= begin_B[:, None]) & (at_BX < end_B[:, None])
    ids_BX = jnp.where(inside_BX, jnp.minimum(tokens_BX, nothing), nothing)
    text_BX = tables.text_V[ids_BX]

    # The nearest earlier index that holds text, from every index; -1 where there is none.
    nearest_BX = jax.lax.cummax(jnp.where(text_BX, at_BX, -1), axis=1)
    before_BX = jnp.pad(nearest_BX[:, :-1], ((0, 0), (1, 0)), constant_values=-1)

    def look_back(at_BX, _):
        at_BX = jnp.where(at_BX >= 0, take(before_BX, at_BX), -1)
        return at_BX, jnp.where(at_BX >= 0, take(ids_BX, at_BX), nothing)

    def go_on(state_BX, piece_BX):
        return tables.after_SV[state_BX, piece_BX] % STATES, None

    # Loops, not unrolled: XLA would fuse these chains of look-ups into one expression that grows exponentially.
    _, pieces_KBX = jax.lax.scan(look_back, at_BX, length=LOOK_BACK)
    state_BX, _ = jax.lax.scan(go_on, jnp.zeros_like(ids_BX), pieces_KBX, reverse=True)
    event_BX = tables.after_SV[state_BX, ids_BX] // STATES

    call_B, whole_call_B = _last(event_BX, at_BX, CALLED)
    answer_B, whole_answer_B = _last(event_BX, at_BX, ANSWERED)
    is_call_B = call_B >= 0
    from_B = jnp.where(is_call_B, call_B + 1, jnp.where(answer_B >= 0, answer_B + 1, begin_B))
    kept_BX = text_BX & (at_BX >= from_B[:, None]) & ~tables.blank_V[ids_BX]
    low_B = jnp.min(jnp.where(kept_BX, at_BX, end_B[:, None]), axis=1)
    high_B = jnp.max(jnp.where(kept_BX, at_BX + 1, low_B[:, None]), axis=1)
    last_B = nearest_BX[:, -1]
    ends_B = (last_B >= 0) & tables.newline_V[pick(ids_BX, last_B)]
    bad_call_B = ~whole_call_B | ~ends_B | (low_B == high_B)
    return Reading(
        is_call_B=is_call_B,
        is_bad_B=jnp.where(is_call_B, bad_call_B, ~whole_answer_B),
        low_B=low_B,
        high_B=high_B,
        spaced_B=(low_B < high_B) & tables.spaced_V[pick(ids_BX, low_B)],
    )


def _last(event_BX, at_BX, whole):
    """Index at which the word was completed last (-1: nowhere), and whether nothing followed in that piece."""
    found_BX = (event_BX == whole) | (event_BX == whole + 1)
    code_B = jnp.max(jnp.where(found_BX, 2 * at_BX + (event_BX == whole), -1), axis=1)
    return code_B // 2, (code_B < 0) | (code_B % 2 == 1)
