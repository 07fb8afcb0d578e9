"""A run of two processes that is killed at random moments ends bit for bit as one that was left alone."""

import kills
import pytest


@pytest.mark.slow
def test_twenty_kills_at_random_moments_change_nothing(tmp_path):
    assert kills.survive(20, seed=0, folder=tmp_path) >= 1
