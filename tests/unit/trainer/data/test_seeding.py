"""Seeded draws are the same for ever: a resumed stage depends on it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from internvl_trainer.data import seeding

pytestmark = pytest.mark.unit


def test_draws_do_not_change_from_one_version_to_the_next() -> None:
    assert seeding.permutation(8, 42, 1, 0).tolist() == [4, 1, 0, 7, 3, 2, 6, 5]
    assert seeding.integers(6, 75, 100, 42, 3).tolist() == [82, 94, 75, 91, 92, 86]


@given(st.integers(0, 300), st.integers(-(2**63), 2**63), st.integers(0, 50))
def test_a_permutation_holds_every_number_once(count: int, seed: int, epoch: int) -> None:
    assert sorted(seeding.permutation(count, seed, epoch).tolist()) == list(range(count))


def test_every_part_of_the_key_counts() -> None:
    orders = {tuple(seeding.permutation(50, *key)) for key in [(1, 2), (2, 1), (1, 3), (1,), (1, 2, 0), (0, 2)]}

    assert len(orders) == 6


def test_qualities_are_spread_evenly_over_the_whole_range() -> None:
    values, counts = np.unique(seeding.integers(26_000, 75, 100, 7), return_counts=True)

    assert values.tolist() == list(range(75, 101))
    assert counts.min() > 850
    assert counts.max() < 1150
