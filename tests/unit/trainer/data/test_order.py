"""The order of an epoch: exact repeats, one seeded order, any place of it at once."""

from collections import Counter
from fractions import Fraction
from math import floor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from internvl_trainer.data.errors import MetaError
from internvl_trainer.data.order import Drawn, EpochOrder, RepeatMode
from internvl_trainer.data.reference_order import reference_repeat, reference_shuffle, reference_stride
from tests.unit.trainer.data.world import golden

pytestmark = pytest.mark.unit

REPEATS = st.decimals("0.01", 6, places=2).map(float)
SOURCES = st.lists(st.tuples(st.integers(0, 60), REPEATS), min_size=1, max_size=4)
GOLDEN = golden("repeat_and_sharding.json")


def _drawn(
    sizes: list[int], repeats: list[float], *, mode: RepeatMode = "exact", seed: int = 42, epoch: int = 0
) -> Drawn:
    order = EpochOrder(sizes, repeats, mode, seed=seed, epoch=epoch)
    return order.at(np.arange(order.draws))


def _rows(size: int, repeat: float, epoch: int = 0, mode: RepeatMode = "exact") -> list[int]:
    return _drawn([size], [repeat], epoch=epoch, mode=mode).row.tolist()


@given(SOURCES, st.integers(0, 9), st.integers(-(2**63), 2**63))
def test_an_epoch_draws_exactly_what_the_repeats_say(sources: list[tuple[int, float]], epoch: int, seed: int) -> None:
    drawn = _drawn([size for size, _ in sources], [repeat for _, repeat in sources], seed=seed, epoch=epoch)

    counts = Counter(zip(drawn.source.tolist(), drawn.row.tolist(), strict=True))
    for number, (size, repeat) in enumerate(sources):
        of_source = [counts[number, row] for row in range(size)]
        assert sum(of_source) == floor(Fraction(str(repeat)) * size)
        assert set(of_source) <= {floor(repeat), floor(repeat) + 1}
    assert sum(counts.values()) == len(drawn.row)
    assert sorted(drawn.number.tolist()) == list(range(len(drawn.number)))


@given(SOURCES, st.data())
def test_any_place_can_be_asked_for_on_its_own(sources: list[tuple[int, float]], data: st.DataObject) -> None:
    order = EpochOrder([size for size, _ in sources], [repeat for _, repeat in sources], "exact", seed=1, epoch=2)
    if not order.draws:
        return
    whole = order.at(np.arange(order.draws))
    places = np.array(data.draw(st.lists(st.integers(0, order.draws - 1), max_size=20)), dtype=np.int64)

    some = order.at(places)

    assert [column.tolist() for column in some] == [column[places].tolist() for column in whole]


@given(st.integers(1, 50), st.integers(1, 50))
def test_parts_go_through_all_rows_before_one_comes_again(size: int, part: int) -> None:
    part = min(part, size)
    epochs = -(-size // part)

    drawn = Counter(row for epoch in range(epochs) for row in _rows(size, float(Fraction(part, size)), epoch))
    per_epoch = len(_rows(size, float(Fraction(part, size))))

    if per_epoch * epochs >= size:
        assert set(drawn) == set(range(size))
    assert max(drawn.values(), default=0) <= 1 + (per_epoch * epochs - 1) // size


def test_a_decimal_means_what_it_says() -> None:
    assert len(_rows(100, 0.29)) == 29


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    orders = {tuple(_drawn([50], [1], seed=seed, epoch=epoch).row) for seed in (1, 2) for epoch in (0, 1)}

    assert len(orders) == 4


def test_every_order_of_a_few_samples_comes_about_equally_often() -> None:
    seen = Counter(tuple(_drawn([4], [1], seed=seed).row.tolist()) for seed in range(2400))

    assert len(seen) == 24
    assert min(seen.values()) > 60
    assert max(seen.values()) < 140


def test_an_order_does_not_change_from_one_version_to_the_next() -> None:
    drawn = _drawn([5, 3], [1.4, 0.7], seed=42, epoch=1)

    assert drawn.source.tolist() == [1, 0, 0, 1, 0, 0, 0, 0, 0]
    assert drawn.row.tolist() == [2, 0, 4, 1, 3, 1, 1, 2, 3]


def test_fifty_million_rows_cost_no_more_than_fifty() -> None:
    order = EpochOrder([50_000_000], [1.5], "exact", seed=1, epoch=0)

    drawn = order.at(np.array([0, 10_000_000, order.draws - 1]))

    assert order.draws == 75_000_000
    assert len(set(drawn.row.tolist())) == 3
    assert drawn.row.max() > 2**16


def test_an_epoch_too_long_to_number_is_refused() -> None:
    with pytest.raises(MetaError, match="lower repeat_time"):
        EpochOrder([50_000_000], [1e12], "exact", seed=1, epoch=0)


@pytest.mark.parametrize("case", GOLDEN["repeat"], ids=str)
def test_reference_mode_keeps_the_lines_that_the_released_trainer_keeps(case: dict[str, object]) -> None:
    repeat = case["repeat_time"]
    assert isinstance(repeat, int | float)
    if "error" in case:
        with pytest.raises(MetaError, match="whole numbers alone"):
            reference_repeat(10, repeat)
        with pytest.raises(MetaError, match="repeat_mode: exact"):
            _rows(10, repeat, mode="reference")
        return
    expected = case["ids"]
    assert isinstance(expected, list)
    assert [number % 10 for number in range(reference_repeat(10, repeat))] == expected
    assert sorted(_rows(10, repeat, mode="reference")) == sorted(expected)


def test_reference_mode_keeps_the_same_lines_in_every_epoch() -> None:
    assert {tuple(sorted(_rows(10, 0.4, epoch, "reference"))) for epoch in range(4)} == {(0, 1, 2, 3)}


def test_reference_mode_multiplies_in_binary_as_the_released_trainer_does() -> None:
    assert reference_repeat(100, 0.29) == 28


def test_lines_are_shuffled_as_by_the_released_trainer() -> None:
    for case in GOLDEN["shuffle"]:
        lines = reference_repeat(10, case["repeat_time"])

        order = reference_shuffle(lines, case["dataset_index_as_seed"])

        assert [place % 10 for place in order] == case["ids"]


def test_workers_take_the_lines_that_the_released_trainer_gives_them() -> None:
    for case in GOLDEN["worker_stride"]:
        places = reference_stride(10, case["worker_id"], case["num_workers"])

        assert list(places) == case["positions"]
