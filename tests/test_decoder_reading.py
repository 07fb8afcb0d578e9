"""The device reads a segment from its tokens as `protocol.read` reads its text, however a tokenizer cuts it."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest

from retune_jax import tokenizer
from retune_jax.decoding.reading import Tables, Words, read
from retune_jax.protocol import AnswerRead, BadRead, CallRead, opening, paste
from retune_jax.protocol import read as read_text

# Pieces that cut the words in every way, end behind them with and without more text, and mean nothing at all.
WHOLE = [b"", b"Call", b":", b" Call:", b"C", b"a", b"ll", b"l:", b"Answer:", b" An", b"swer", b"s", b": ", b":\n", b"er:  "]
OTHERS = [b"\n", b" ", b"  ", b"1", b" 1", b", ", b"\xe2", b"\x82", b"\x1c", b"\t\n", b"\nAnswer:"]
INSIDE = [b":x", b"Call:y", b" Call: Call: 3\n", b"Answer:z", b"Answer: 2\n"]
LENGTH = 24


def segments(pieces, weights, count, seed):
    rng = np.random.default_rng(seed)
    tokens_BX = rng.choice(len(pieces), size=(count, LENGTH), p=weights / weights.sum())
    begin_B = rng.integers(0, LENGTH, count)
    return tokens_BX.astype(np.int32), begin_B, begin_B + rng.integers(0, LENGTH - begin_B + 1)


def meanings(pieces, tokens_BX, begin_B, end_B):
    """(reading by the device as the protocol would put it, text) of each segment."""
    reading = jax.device_get(jax.jit(read)(Tables.of(pieces), tokens_BX, begin_B, end_B))
    for slot, tokens in enumerate(tokens_BX):
        text = b"".join(pieces[token] for token in tokens[begin_B[slot] : end_B[slot]]).decode(errors="replace")
        found = tokens[reading.low_B[slot] : reading.high_B[slot]]
        copied = b"".join(pieces[token] for token in found).decode(errors="replace").strip()
        meaning = CallRead(copied) if reading.is_call_B[slot] else AnswerRead(copied)
        yield (BadRead() if reading.is_bad_B[slot] else meaning), text


def test_any_cut_of_the_words_is_read_as_its_text_is():
    pieces = WHOLE + OTHERS
    weights = np.array([6.0] * len(WHOLE) + [2.0] * len(OTHERS))
    weights[1:3] = 40.0
    kinds = set()
    for meaning, text in meanings(pieces, *segments(pieces, weights, 20_000, 0)):
        assert meaning == read_text(text), repr(text)
        kinds.add((type(meaning), "Answer:" in text))
    assert len(kinds) == 6


def test_text_behind_the_word_in_the_same_piece_makes_a_bad_call_or_else_changes_nothing():
    pieces = WHOLE + OTHERS + INSIDE
    weights = np.array([6.0] * len(WHOLE) + [2.0] * len(OTHERS) + [6.0] * len(INSIDE))
    refused = 0
    for meaning, text in meanings(pieces, *segments(pieces, weights, 5_000, 1)):
        if meaning != read_text(text):
            assert meaning == BadRead(), repr(text)
            refused += 1
    assert refused > 50


@pytest.mark.parametrize("spelling", ["whole", "bytes"])
def test_the_tiny_tokenizer_is_read_whole_and_byte_by_byte(spelling):
    tiny = tokenizer.tiny()
    texts = [" Call: 12 + 3\n", " Call: 12 + 3", " 7", " so\nAnswer: [1, 2]", "", " Call: \n", " a Call: b Call: c\n", "é\n"]
    byte_ids = {piece: token for token, piece in enumerate(tiny.pieces) if len(piece) == 1}
    tokens_BX = np.zeros((len(texts), 48), np.int32)
    end_B = np.zeros(len(texts), np.int32)
    for slot, text in enumerate(texts):
        ids = tiny.encode(text) if spelling == "whole" else [byte_ids[bytes([byte])] for byte in text.encode()]
        tokens_BX[slot, : len(ids)], end_B[slot] = ids, len(ids)
    for meaning, text in meanings(tiny.pieces, tokens_BX, np.zeros_like(end_B), end_B):
        assert meaning == read_text(text)


def test_the_decoders_own_words_are_those_of_the_protocol():
    spelled = SimpleNamespace(bos=1, eos=2, encode=lambda text: list(text.encode()))
    words = Words.of(spelled, "\nSolution:")
    assert bytes(words.space + tuple(b"what?") + words.opening).decode() == opening("what?")
    assert bytes(words.returned + words.space + tuple(b"7") + words.answer).decode() == paste("7")
