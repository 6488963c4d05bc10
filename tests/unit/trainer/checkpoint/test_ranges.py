"""Blocks that hold a range: all of it, and no block more than needed."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internvl_trainer.checkpoint.ranges import Block, Range, blocks_of, blocks_with
from internvl_trainer.contract.manifest import StoredObject

pytestmark = pytest.mark.unit


def stored(size: int, block: int) -> StoredObject:
    payload = bytes(index % 251 for index in range(size))
    pieces = [payload[begin : begin + block] for begin in range(0, size, block)]
    digests = tuple(hashlib.sha256(piece).hexdigest() for piece in pieces) if len(pieces) > 1 else ()
    return StoredObject(
        key="x",
        size=size,
        sha256=hashlib.sha256(payload).hexdigest(),
        block_bytes=block if digests else 0,
        blocks=digests,
    )


def test_an_object_without_blocks_is_one() -> None:
    whole = stored(10, 10)
    assert blocks_of(whole) == [Block(0, 10, whole.sha256)]
    assert blocks_with(whole, [Range(3, 2)]) == blocks_of(whole)


def test_the_last_block_is_shorter() -> None:
    assert [(block.offset, block.length) for block in blocks_of(stored(25, 10))] == [(0, 10), (10, 10), (20, 5)]


def test_a_range_that_ends_at_a_border_does_not_touch_the_next_block() -> None:
    assert [block.offset for block in blocks_with(stored(30, 10), [Range(5, 5)])] == [0]
    assert [block.offset for block in blocks_with(stored(30, 10), [Range(5, 6)])] == [0, 10]


@given(
    st.integers(1, 300), st.integers(1, 40), st.lists(st.tuples(st.integers(0, 299), st.integers(1, 60)), max_size=6)
)
def test_every_byte_asked_for_is_in_one_block_and_every_block_has_one(
    size: int, block: int, asked: list[tuple[int, int]]
) -> None:
    ranges = [Range(begin, min(length, size - begin)) for begin, length in asked if begin < size]
    found = blocks_with(stored(size, block), ranges)
    covered = [byte for each in found for byte in range(each.offset, each.offset + each.length)]
    wanted = {byte for each in ranges for byte in range(each.offset, each.offset + each.length)}
    assert len(covered) == len(set(covered)), "each byte is fetched once"
    assert wanted <= set(covered)
    if size > block:
        assert all(wanted & set(range(each.offset, each.offset + each.length)) for each in found)
