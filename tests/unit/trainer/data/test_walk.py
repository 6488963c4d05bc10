"""The walk: exact epochs, one order for any number of ranks, a start anywhere."""

from collections import Counter
from fractions import Fraction
from itertools import islice, takewhile
from math import floor
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from internvl_trainer.contract.data_position import DataPosition
from internvl_trainer.data import walk as walk_module
from internvl_trainer.data.errors import MetaError
from internvl_trainer.data.packing import PackCost, PackLimits
from internvl_trainer.data.walk import EmptyEpochError, PackKey, StalePositionError, Walk, estimate

pytestmark = pytest.mark.unit

LIMITS = PackLimits(tokens=40, tiles=6)
COST = PackCost(token=3, square=1, tile=20)
COLUMNS = np.dtype([("tokens", "<u4"), ("tiles", "<u2"), ("reason", "u1")])

ROW = st.tuples(st.integers(1, LIMITS.tokens), st.integers(0, LIMITS.tiles), st.sampled_from([0, 0, 0, 1]))
SOURCE = st.tuples(st.lists(ROW, max_size=40), st.decimals("0.1", 3, places=1).map(float))


def _walk(sources: list[tuple[list[tuple[int, int, int]], float]], seed: int = 7) -> Walk:
    """In windows of 16 draws, so that small data has several."""
    rows = [np.array(rows, dtype=COLUMNS) for rows, _ in sources]
    repeats = [repeat for _, repeat in sources]
    return Walk(rows, repeats, limits=LIMITS, cost=COST, repeat_mode="exact", seed=seed, window=16)


def _mixed(good: int = 100, bad: int = 10, seed: int = 0) -> Walk:
    """Three data sets of different repeats, some of their rows bad."""
    sizes = np.random.default_rng(seed).integers((1, 0), (20, 5), (good + bad, 2)).tolist()
    rows = [(tokens, tiles, int(number >= good)) for number, (tokens, tiles) in enumerate(sizes)]
    return _walk([(rows, 1.0), (rows[:30], 2.5), (rows[90:], 0.4)])


def _named(key: PackKey) -> tuple[int, int, tuple[tuple[int, int, int], ...]]:
    """A key in a form that can be compared."""
    members = zip(key.source.tolist(), key.row.tolist(), key.draw.tolist(), strict=True)
    return key.number, key.epoch, tuple(members)


def _packs(walk: Walk, count: int, position: DataPosition = DataPosition()) -> list[PackKey]:  # noqa: B008
    return [keys[0] for keys, _ in islice(walk.batches(position, 1), count)]


def _epoch(walk: Walk, epoch: int = 0) -> list[PackKey]:
    """All packs of one epoch. (The windows behind its last pack may be empty, so its end shows in the next key.)"""
    keys = (keys[0] for keys, _ in walk.batches(DataPosition(epoch=epoch), 1))
    return list(takewhile(lambda key: key.epoch == epoch, keys))


@given(st.lists(SOURCE, min_size=1, max_size=3), st.integers(0, 3))
def test_each_good_row_comes_as_often_as_its_repeat_says_and_no_bad_one(
    sources: list[tuple[list[tuple[int, int, int]], float]], epoch: int
) -> None:
    try:
        keys = _epoch(_walk(sources), epoch)
    except (EmptyEpochError, MetaError):
        keys = []

    drawn = Counter((s, r) for key in keys for s, r in zip(key.source.tolist(), key.row.tolist(), strict=True))
    for number, (rows, repeat) in enumerate(sources):
        counts = [drawn[number, row] for row in range(len(rows))]
        bad = [row for row, (_, _, reason) in enumerate(rows) if reason]
        assert all(counts[row] == 0 for row in bad)
        good = [count for row, count in enumerate(counts) if row not in bad]
        assert set(good) <= {floor(repeat), floor(repeat) + 1}
        # Draws that are missing fell on bad rows.
        missing = floor(Fraction(str(repeat)) * len(rows)) - sum(good)
        assert floor(repeat) * len(bad) <= missing <= (floor(repeat) + 1) * len(bad)
    draws = [(key.epoch, draw) for key in keys for draw in key.draw.tolist()]
    assert len(draws) == len(set(draws))


@given(st.lists(SOURCE, min_size=1, max_size=3))
def test_no_pack_exceeds_a_limit(sources: list[tuple[list[tuple[int, int, int]], float]]) -> None:
    try:
        keys = _epoch(_walk(sources))
    except (EmptyEpochError, MetaError):
        return
    for key in keys:
        held = [sources[s][0][r] for s, r in zip(key.source.tolist(), key.row.tolist(), strict=True)]
        assert held
        assert sum(tokens for tokens, _, _ in held) <= LIMITS.tokens
        assert sum(tiles for _, tiles, _ in held) <= LIMITS.tiles


@settings(max_examples=40)
@given(st.integers(1, 8), st.integers(0, 30), st.integers(0, 3))
def test_from_any_position_the_rest_is_the_same(size: int, steps: int, seed: int) -> None:
    through = list(islice(_mixed(seed=seed).batches(DataPosition(), size), steps + 8))
    position = through[steps - 1][1] if steps else DataPosition()

    resumed = islice(_mixed(seed=seed).batches(position, size), 8)

    assert [([_named(key) for key in keys], after) for keys, after in resumed] == [
        ([_named(key) for key in keys], after) for keys, after in through[steps:]
    ]


@pytest.mark.parametrize("size", [1, 3, 8, 12])
def test_batches_of_any_size_hold_the_same_packs_one_after_the_other(size: int) -> None:
    one_by_one = [_named(key) for key in _packs(_mixed(), 60)]

    batches = list(islice(_mixed().batches(DataPosition(), size), 60 // size))

    for number, (keys, after) in enumerate(batches, start=1):
        assert sorted(_named(key) for key in keys) == one_by_one[(number - 1) * size : number * size]
        assert after.packs == number * size
        assert after.samples == sum(len(members) for _, _, members in one_by_one[: number * size])


def test_packs_are_numbered_without_a_gap_through_epochs() -> None:
    keys = _packs(_mixed(), 150)

    assert [key.number for key in keys] == list(range(150))
    assert keys[-1].epoch > 0


def test_a_position_at_the_end_of_an_epoch_is_the_next_epochs_beginning() -> None:
    walk = _mixed()
    _, position = walk.batch(DataPosition(), len(_epoch(walk)))

    assert (position.epoch, position.window, position.taken) == (1, 0, 0)


def test_a_row_that_turns_bad_leaves_other_windows_as_they_are() -> None:
    rows = [(9, 1, 0)] * 64
    spoilt = [*rows[:20], (9, 1, 1), *rows[21:]]
    before, after = _walk([(rows, 1.0)]), _walk([(spoilt, 1.0)])

    changed = [window for window in range(4) if _rows(before, window) != _rows(after, window)]

    assert len(changed) == 1
    members = [sorted(row for pack in _rows(walk, changed[0]) for row in pack) for walk in (before, after)]
    assert set(members[0]) - set(members[1]) == {20}
    assert set(members[1]) < set(members[0])


def _rows(walk: Walk, window: int) -> list[list[int]]:
    return [pack.drawn.row.tolist() for pack in walk.window(0, window)]


@pytest.mark.parametrize(("epoch", "window", "windows_packed"), [(0, 0, 1), (0, 5, 1), (1_000_000, 3, 1)])
def test_a_start_packs_one_window_wherever_it_is(epoch: int, window: int, windows_packed: int) -> None:
    walk = _mixed()
    with patch.object(walk_module, "form_packs", wraps=walk_module.form_packs) as form_packs:
        walk.batch(DataPosition(epoch=epoch, window=window), 1)

    assert form_packs.call_count == windows_packed


def test_packs_of_a_window_do_not_come_by_falling_size() -> None:
    tokens = [pack.tokens for pack in _walk([([(size, 0, 0) for size in range(20, 36)], 1.0)]).window(0, 0)]

    assert tokens != sorted(tokens, reverse=True)


def test_an_epoch_of_bad_rows_alone_is_an_error() -> None:
    with pytest.raises(EmptyEpochError, match="epoch 0 has no sample that can be trained on"):
        _walk([([(5, 1, 3)] * 100, 1.0)]).batch(DataPosition(), 1)


def test_windows_of_bad_rows_are_passed_over() -> None:
    """The only good row of 100 is found again in each epoch, wherever it stands."""
    keys = _packs(_walk([([*[(5, 1, 3)] * 99, (5, 1, 0)], 1.0)]), 5)

    assert [(key.epoch, key.row.tolist()) for key in keys] == [(epoch, [99]) for epoch in range(5)]


def test_an_epoch_that_draws_nothing_is_refused() -> None:
    with pytest.raises(MetaError, match="an epoch has no sample"):
        _walk([([(5, 1, 0)], 0.5)])


@pytest.mark.parametrize("position", [DataPosition(window=99), DataPosition(window=1, taken=17, packs=20)])
def test_a_position_of_other_data_is_refused(position: DataPosition) -> None:
    with pytest.raises(StalePositionError, match="that the stage began with"):
        _mixed().batch(position, 1)


def test_an_estimate_of_all_windows_is_exact() -> None:
    walk = _mixed()
    keys = _epoch(walk)

    found = estimate(walk)

    assert (found.packs, found.samples) == (len(keys), sum(len(key.row) for key in keys))
    assert found.exact
    assert 0 < found.token_fill <= 1
    assert found.tile_fill == pytest.approx(found.tiles / (found.packs * LIMITS.tiles))


def test_an_estimate_of_some_windows_comes_near_and_says_so() -> None:
    rows = [(1 + number % 20, number % 4, 0) for number in range(1600)]
    walk = _walk([(rows, 1.0)])

    whole, some = estimate(walk), estimate(walk, max_windows=25)

    assert (whole.exact, some.exact) == (True, False)
    assert some.packs == pytest.approx(whole.packs, rel=0.1)
    assert some.tokens == pytest.approx(whole.tokens, rel=0.1)
