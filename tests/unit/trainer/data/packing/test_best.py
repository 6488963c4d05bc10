"""Packing a window: what must hold for any data."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internvl_trainer.data.packing import PackLimits, form_packs

pytestmark = pytest.mark.unit

LIMITS = PackLimits(tokens=40, tiles=6)
SIZES = st.lists(st.tuples(st.integers(1, LIMITS.tokens), st.integers(0, LIMITS.tiles)), max_size=150)


@given(SIZES)
def test_no_sample_is_lost_or_repeated_and_no_limit_is_exceeded(sizes: list[tuple[int, int]]) -> None:
    tokens, tiles = [size for size, _ in sizes], [count for _, count in sizes]

    packs = form_packs(tokens, tiles, LIMITS)

    assert sorted(position for pack in packs for position in pack) == list(range(len(sizes)))
    for pack in packs:
        assert pack
        assert sum(tokens[position] for position in pack) <= LIMITS.tokens
        assert sum(tiles[position] for position in pack) <= LIMITS.tiles


def test_a_sample_larger_than_a_pack_is_refused_with_its_sizes() -> None:
    with pytest.raises(ValueError, match="position 1 has 41 tokens and 0 tiles; a pack holds at most 40 and 6"):
        form_packs([1, 41], [0, 0], LIMITS)
