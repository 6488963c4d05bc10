"""A global batch in an order that gives every rank the same work, at any number of ranks."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from internvl_trainer.data import seeding
from internvl_trainer.data.packing import arrange

pytestmark = pytest.mark.unit

SIZES = st.sampled_from([1, 2, 3, 4, 6, 8, 12, 24, 30, 36, 64])
COSTS = SIZES.flatmap(lambda size: st.lists(st.integers(1, 1000), min_size=size, max_size=size))


def _sums(costs: list[int], order: list[int], ranks: int) -> list[int]:
    return [sum(costs[pack] for pack in order[rank::ranks]) for rank in range(ranks)]


@given(COSTS)
def test_every_pack_has_one_place(costs: list[int]) -> None:
    assert sorted(arrange(costs)) == list(range(len(costs)))


@given(COSTS)
def test_no_two_ranks_differ_by_more_than_two_packs_do_at_any_number_of_ranks(costs: list[int]) -> None:
    order = arrange(costs)

    for ranks in range(1, len(costs) + 1):
        if len(costs) % ranks == 0:
            sums = _sums(costs, order, ranks)
            assert max(sums) - min(sums) <= max(costs) - min(costs)


@given(COSTS, st.integers(1, 10**15))
def test_the_unit_of_cost_does_not_matter(costs: list[int], unit: int) -> None:
    assert arrange(costs) == arrange([cost * unit for cost in costs])


@pytest.mark.parametrize("size", [96, 480, 512])
def test_ranks_of_a_large_batch_are_within_a_few_percent(size: int) -> None:
    """Costs spread by 12 percent around their mean, as those of full packs may."""
    costs = seeding.integers(size, 8000, 12000, 1).tolist()
    order = arrange(costs)

    for ranks in (ranks for ranks in range(2, size // 2 + 1) if size % ranks == 0):
        arranged, by_chance = (np.array(_sums(costs, of, ranks)) for of in (order, list(range(size))))
        assert arranged.max() / arranged.mean() < 1.055
        if size // ranks >= 8:
            assert arranged.max() / arranged.mean() < 1.01
        assert arranged.max() < by_chance.max() or ranks <= 3
