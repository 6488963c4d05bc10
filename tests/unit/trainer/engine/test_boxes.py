"""Boxes of a flat range: together they are the range's elements, each once, and they are few."""

from itertools import pairwise, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internvl_trainer.contract.boxes import Box
from internvl_trainer.engine.boxes import boxes_in_range

pytestmark = pytest.mark.unit


@st.composite
def views(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shape and strides of a view in memory's order: the last elements of an axis may be left out, steps skipped."""
    shape = tuple(draw(st.lists(st.integers(0, 5), max_size=4)))
    strides: list[int] = []
    extent = draw(st.integers(1, 2))
    for size in reversed(shape):
        strides.insert(0, extent)
        extent = extent * max(size, 1) + draw(st.integers(0, 3))
    return shape, tuple(strides)


def positions(box: Box, strides: tuple[int, ...]) -> list[int]:
    ranges = [range(begin, begin + size) for begin, size in zip(box.offset, box.shape, strict=True)]
    return [sum(index * stride for index, stride in zip(place, strides, strict=True)) for place in product(*ranges)]


@given(views(), st.integers(-5, 700), st.integers(0, 700))
def test_they_hold_exactly_the_elements_in_the_range_each_once(
    view: tuple[tuple[int, ...], tuple[int, ...]], first: int, length: int
) -> None:
    shape, strides = view
    boxes = list(boxes_in_range(shape, strides, first, first + length))
    everything = positions(Box((0,) * len(shape), shape), strides)
    expected = [place for place in everything if first <= place < first + length]
    assert sorted(place for box in boxes for place in positions(box, strides)) == expected
    assert len(boxes) <= max(1, 2 * len(shape) - 1)


@given(views(), st.lists(st.integers(0, 700), max_size=4))
def test_ranges_that_meet_share_no_element_and_leave_none_out(
    view: tuple[tuple[int, ...], tuple[int, ...]], cuts: list[int]
) -> None:
    shape, strides = view
    bounds = [0, *sorted(cuts), 10_000]
    found = [box for first, end in pairwise(bounds) for box in boxes_in_range(shape, strides, first, end)]
    assert sorted(place for box in found for place in positions(box, strides)) == positions(
        Box((0,) * len(shape), shape), strides
    )


def test_a_range_of_a_matrix_is_the_end_of_a_row_whole_rows_and_the_beginning_of_a_row() -> None:
    boxes = list(boxes_in_range((4, 10), (10, 1), 7, 33))
    assert boxes == [Box((1, 0), (2, 10)), Box((0, 7), (1, 3)), Box((3, 0), (1, 3))]


def test_a_transposed_tensor_is_refused() -> None:
    with pytest.raises(ValueError, match="not in memory's order"):
        list(boxes_in_range((4, 10), (1, 4), 7, 33))
