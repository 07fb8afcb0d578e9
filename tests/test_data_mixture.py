"""Replay strews a share of another source evenly among a task's examples, and loses none of them."""

import doctest

import pytest

from retune_jax.data import mixture
from retune_jax.data.mixture import Mixture


def test_the_worked_example_is_true():
    results = doctest.testmod(mixture)
    assert results.attempted > 0
    assert results.failed == 0


@pytest.mark.parametrize("share", [0.01, 0.3, 0.5, 0.9])
def test_every_example_comes_once_and_the_share_is_kept(share):
    main, other = list(range(1000)), [-1]
    mixed = Mixture(main, other, share)
    taken = [mixed[i] for i in range(len(mixed))]
    assert [x for x in taken if x >= 0] == main
    assert taken.count(-1) == pytest.approx(share * len(mixed), abs=1)


def test_an_index_outside_is_an_error():
    for index in (-1, 4):
        with pytest.raises(IndexError):
            Mixture([1, 2, 3], [0], 0.25)[index]
