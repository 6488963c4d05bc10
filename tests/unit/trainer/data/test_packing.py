"""Greedy packing: the reference's packs, and what must hold for any data."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from internvl_trainer.data import seeding
from internvl_trainer.data.packing import PackLimits, form_packs, plan_epoch
from tests.unit.trainer.data.world import golden

pytestmark = pytest.mark.unit

RUNS = golden("packing.json")["runs"]
LIMITS = PackLimits(tokens=40, tiles=6)
SIZES = st.lists(st.tuples(st.integers(1, LIMITS.tokens), st.integers(0, LIMITS.tiles)), max_size=150)


@pytest.mark.parametrize("run", RUNS, ids=[run["name"] for run in RUNS])
def test_the_reference_packs_come_out_in_the_reference_order(run: dict[str, Any]) -> None:
    sizes = {number: (tokens, tiles) for data in run["datasets"] for number, tokens, tiles in data["samples"]}
    drawn = run["draw_order"]
    limits = PackLimits(run["params"]["max_packed_tokens"], run["params"]["num_images_expected"])

    packs = form_packs(
        [sizes[number][0] for number in drawn],
        [sizes[number][1] for number in drawn],
        limits,
        open_packs=run["params"]["max_buffer_size"],
    )

    expected = [[number for number, _ in pack["segments"]] for pack in run["packed"]]
    assert [[drawn[position] for position in pack] for pack in packs] == expected


@given(SIZES, st.integers(0, 5))
def test_no_sample_is_lost_or_repeated_and_no_limit_is_exceeded(sizes: list[tuple[int, int]], open_packs: int) -> None:
    tokens, tiles = [size for size, _ in sizes], [count for _, count in sizes]

    packs = form_packs(tokens, tiles, LIMITS, open_packs=open_packs)

    assert sorted(position for pack in packs for position in pack) == list(range(len(sizes)))
    for pack in packs:
        assert pack
        assert sum(tokens[position] for position in pack) <= LIMITS.tokens
        assert sum(tiles[position] for position in pack) <= LIMITS.tiles


@given(SIZES, st.integers(1, 200), st.integers(0, 9))
def test_an_epoch_holds_every_draw_once_whatever_the_window(
    sizes: list[tuple[int, int]], window: int, seed: int
) -> None:
    tokens, tiles = np.array(sizes, dtype=np.int32).reshape(-1, 2).T
    order = seeding.permutation(len(sizes), seed)

    plan = plan_epoch(order, tokens, tiles, LIMITS, window=window)

    assert sorted(plan.order.tolist()) == list(range(len(sizes)))
    for pack in range(plan.packs):
        assert tokens[plan.draws(pack)].sum() <= LIMITS.tokens
        assert tiles[plan.draws(pack)].sum() <= LIMITS.tiles


def test_windows_do_not_depend_on_each_other() -> None:
    tokens, tiles = np.full(64, 9), np.ones(64, dtype=int)
    order = seeding.permutation(64, 1)

    whole = plan_epoch(order, tokens, tiles, LIMITS, window=32)
    second = plan_epoch(order[32:], tokens, tiles, LIMITS, window=32)

    assert whole.order[32:].tolist() == second.order.tolist()


def test_a_sample_larger_than_a_pack_is_refused_with_its_sizes() -> None:
    with pytest.raises(ValueError, match="position 1 has 41 tokens and 0 tiles; a pack holds at most 40 and 6"):
        form_packs([1, 41], [0, 0], LIMITS)
