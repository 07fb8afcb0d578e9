"""Training positions with gaps: what they may change, and what they may not."""

import doctest

import numpy as np
import pytest

from retune_jax import config as recipes
from retune_jax.data import gaps, pipeline
from retune_jax.data.mixture import Replay
from retune_jax.errors import UserError
from retune_jax.tokenizer import tiny

TASK = [{"inputs": [f" {i} is what? Say"], "outputs": [f" {i}"]} for i in range(100)]
OTHER = [{"inputs": [" please repeat: so Say"], "outputs": [" so"]}]
POSITIONS = "positions_BT"


def test_the_example_in_the_docstring_is_true():
    assert doctest.testmod(gaps).failed == 0


@pytest.mark.parametrize("length, span", [(1, 50), (2, 50), (30, 100), (30, 31), (30, 30), (30, 10)])
def test_positions_rise_from_0_below_the_span_with_at_most_one_gap(length, span):
    rng, widest, plain = np.random.default_rng(0), 0, 0
    for _ in range(300):
        found = gaps.positions(rng, length, span)
        steps = np.diff(found)
        assert found.shape == (length,) and found[0] == 0 and (steps >= 1).all() and (steps > 1).sum() <= 1
        assert found[-1] < max(span, length)
        widest, plain = max(widest, found[-1]), plain + (found[-1] == length - 1)
    if 1 < length < span - 1:
        assert widest > length - 1 + 0.8 * (span - length), "the span is used"
        assert 120 <= plain <= 190, "about half has no gap, and is what evaluation will ask"
    else:
        assert plain >= 120


def stream(gaps, replay=None, after=0):
    shape = {"sequence_length": 64, "context_length": 64, "rows": 2, "weigh": "sum", "seed": 0}
    return pipeline.train_batches(TASK, tiny(), replay=replay, gaps=gaps, gaps_after=after, **shape)


def contexts(batch):
    """(tokens, positions) of each context."""
    for tokens, ids, positions in zip(batch["tokens_BT"], batch["segment_ids_BT"], batch[POSITIONS]):
        for number in range(1, ids.max() + 1):
            yield tokens[ids == number], positions[ids == number]


def test_gaps_change_positions_and_nothing_else():
    plain, wide = stream(0), stream(60)
    seen = set()
    for _ in range(10):
        one, two = next(plain), next(wide)
        assert all((one[name] == two[name]).all() for name in one if name != POSITIONS)
        assert not two[POSITIONS][two["segment_ids_BT"] == 0].any()
        assert all((positions == np.arange(len(positions))).all() for _, positions in contexts(one))
        seen |= {tuple(positions) for _, positions in contexts(two)}
    assert max(positions[-1] for positions in seen) > 40
    assert len(seen) > 30, "each context has gaps of its own"
    plain.close(), wide.close()


def test_replayed_text_has_no_gaps():
    batches = stream(60, Replay(OTHER, share=0.5, after=0))
    so, found = tiny().encode(" so")[0], 0
    for _ in range(10):
        for tokens, positions in contexts(next(batches)):
            if so in tokens:
                found += 1
                assert (positions == np.arange(len(positions))).all()
    assert found > 30
    batches.close()


@pytest.mark.parametrize("replayed_from", [None, 0, 30, 90])
def test_gaps_begin_at_about_their_step(replayed_from):
    replay = None if replayed_from is None else Replay(OTHER, share=0.5, after=replayed_from)
    batches = stream(60, replay, after=60)
    wide = [any(len(p) < p[-1] + 1 for _, p in contexts(next(batches))) for _ in range(240)]
    # Full rows come in batches, in random order; beside replay fewer of the source's contexts are in a batch.
    assert not any(wide[:20]) and np.mean(wide[120:]) > 0.8
    batches.close()


def test_a_stream_with_gaps_goes_on_bit_for_bit():
    whole, part = stream(60), stream(60)
    for _ in range(9):
        next(whole), next(part)
    state = part.get_state()
    part.close()
    fresh = stream(60)
    fresh.set_state(state)
    for _ in range(20):
        one, two = next(whole), next(fresh)
        assert all((one[name] == two[name]).all() for name in one)
    whole.close(), fresh.close()


def test_a_negative_span_is_refused():
    config = recipes.recipe("", task="parity")
    config.data.gaps = -1
    with pytest.raises(UserError, match=r"config\.data\.gaps"):
        recipes.validate(config)
