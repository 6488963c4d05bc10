"""Packing a window: what must hold for any data, and how full packs must be."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.data.mixes import MIXES
from internvl_trainer.data.packing import PackLimits, form_packs, reference_greedy
from internvl_trainer.data.packing.best import fewest_packs

pytestmark = pytest.mark.unit

LIMITS = PackLimits(tokens=40, tiles=6)
PAPER = PackLimits(tokens=16384, tiles=48)
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


@pytest.mark.parametrize("mix", ["InternVL-like", "both limits bind", "video", "text"])
@pytest.mark.parametrize("seed", [1, 2])
def test_packs_are_within_a_percent_of_what_is_possible(mix: str, seed: int) -> None:
    tokens, tiles = (column.tolist() for column in MIXES[mix](4096, seed))

    packs = form_packs(tokens, tiles, PAPER)

    assert len(packs) <= 1.01 * max(sum(tokens) / PAPER.tokens, sum(tiles) / PAPER.tiles)
    assert len(packs) >= fewest_packs(tokens, tiles, PAPER)


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("tiles_of_a_pack", [48, 12])
def test_a_window_takes_no_more_packs_than_the_released_packer_does(mix: str, tiles_of_a_pack: int) -> None:
    limits = PAPER._replace(tiles=tiles_of_a_pack)
    sizes = zip(*(column.tolist() for column in MIXES[mix](4096, 3)), strict=True)
    tokens, tiles = zip(*[(size, count) for size, count in [*sizes, (1, 1)] if count <= limits.tiles], strict=True)

    packs = form_packs(tokens, tiles, limits)

    released = zip(tokens, (max(1, count) for count in tiles), strict=True)
    assert len(packs) <= len(
        reference_greedy(released, max_tokens=limits.tokens, max_tiles=limits.tiles, buffer_size=20)
    )


@pytest.mark.parametrize(
    "sizes",
    [[(20, 2), (25, 0), (5, 2), (10, 3), (20, 1)], [(10, 4), (10, 2), (20, 0), (20, 2), (15, 2)]],
    ids=["longest first", "as drawn"],
)
def test_where_the_scarcest_first_would_take_three_packs_another_order_takes_two(sizes: list[tuple[int, int]]) -> None:
    assert len(form_packs(*zip(*sizes, strict=True), LIMITS)) == 2


def test_text_goes_where_tiles_have_left_tokens() -> None:
    assert len(form_packs([20, 20, 20, 20], [6, 6, 0, 0], LIMITS)) == 2


def test_packs_do_not_change_from_one_version_to_the_next() -> None:
    sizes = [(1 + number * 7 % 23, number * 5 % 7) for number in range(12)]

    packs = form_packs(*zip(*sizes, strict=True), LIMITS)

    assert packs == [[11], [4], [8, 3, 7, 0], [1, 10], [5, 6], [9, 2]]


def test_text_alone_needs_no_tiles() -> None:
    assert len(form_packs([5] * 16, [0] * 16, PackLimits(tokens=40, tiles=0))) == 2


def test_no_sample_makes_no_pack() -> None:
    assert form_packs([], [], LIMITS) == []
