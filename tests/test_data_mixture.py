"""Replay strews a share of another source evenly among a task's examples, from a place on, and loses none of them."""

import doctest
import sys

import grain
import pytest

from retune_jax.data import mixture, pipeline
from retune_jax.data.mixture import Mixture, Replay
from retune_jax.tokenizer import tiny


def test_the_worked_example_is_true():
    results = doctest.testmod(mixture)
    assert results.attempted > 0
    assert results.failed == 0


@pytest.mark.parametrize("after", [0, 700])
@pytest.mark.parametrize("share", [0.01, 0.3, 0.5, 0.9])
def test_every_example_comes_once_and_the_share_is_kept(share, after):
    main, other = list(range(1000)), [-1]
    mixed = Mixture(main, other, share, after)
    taken = [mixed[i] for i in range(len(mixed))]
    assert [x for x in taken if x >= 0] == main
    assert -1 not in taken[:after]
    assert taken.count(-1) == pytest.approx(share * (len(mixed) - after), abs=1)


def test_an_index_outside_is_an_error():
    for index in (-1, 4):
        with pytest.raises(IndexError):
            Mixture([1, 2, 3], [0], 0.25)[index]


def test_an_endless_source_stays_endless_and_exact():
    mixed = Mixture(grain.MapDataset.range(10).repeat(), [-1], 0.35, after=10**6)
    assert len(mixed) == sys.maxsize
    far = 10**12
    taken = [mixed[i] for i in range(far, far + 2000)]
    assert taken.count(-1) == 700


TASK = [{"inputs": [f" {i} is what? Say"], "outputs": [f" {i}"]} for i in range(100)]
OTHER = [{"inputs": [" please repeat: so Say"], "outputs": [" so"]}]


def batches(replay):
    return pipeline.train_batches(
        TASK,
        tiny(),
        sequence_length=64,
        context_length=64,
        rows=2,
        weigh="sum",
        seed=0,
        replay=replay,
    )


def replayed(batch):
    """The share of a batch's segments that are replayed: those whose first target is ` so`."""
    so = tiny().encode(" so")[0]
    return ((batch["targets_BT"] == so) & (batch["weights_BT"] > 0)).sum() / batch["segments_B"].sum()


def test_replay_begins_at_about_its_step_and_has_its_share_from_there_on():
    shares = []
    stream = batches(Replay(OTHER, share=0.5, after=40))
    for _ in range(240):
        shares.append(replayed(next(stream)))
    stream.close()
    begin = next(step for step, share in enumerate(shares) if share)
    assert 15 <= begin <= 60, "full rows come in batches, in random order"
    assert sum(shares[100:]) / len(shares[100:]) == pytest.approx(0.5, abs=0.1)


def test_a_stream_with_replay_goes_on_bit_for_bit():
    replay = Replay(OTHER, share=0.5, after=5)
    whole, part = batches(replay), batches(replay)
    for _ in range(9):
        next(whole), next(part)
    state = part.get_state()
    part.close()
    fresh = batches(replay)
    fresh.set_state(state)
    for _ in range(20):
        one, two = next(whole), next(fresh)
        assert all((one[name] == two[name]).all() for name in one)
    whole.close(), fresh.close()
