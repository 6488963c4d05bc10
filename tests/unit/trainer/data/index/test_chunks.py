"""A file of lines in parts: whatever is in it, and however it is cut, the lines are those of one pass."""

import io

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from internvl_trainer.data.index import chunks

pytestmark = pytest.mark.unit

# Bytes among which lines' ends, and what looks like one, are frequent.
CONTENTS = st.lists(
    st.sampled_from([b"\n", b"\r\n", b"\r", b"\0", b"\xef\xbb\xbf", b" ", b"{}", b"x" * 9, b"\x85"])
).map(b"".join) | st.binary(max_size=200)


class Held:
    """A file in memory that remembers the most that was read at once."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.most = 0

    def read(self, offset: int, length: int) -> bytes:
        assert offset >= 0, "nothing is read before the file"
        assert offset + length <= len(self.content), "nothing is read behind the file"
        self.most = max(self.most, length)
        return self.content[offset : offset + length]


def _in_one_pass(content: bytes) -> list[tuple[int, bytes]]:
    """Each line's offset and content, as the standard library reads lines."""
    found, offset = [], 0
    for line in io.BytesIO(content):
        found.append((offset, line.removesuffix(b"\n")))
        offset += len(line)
    return found


@given(CONTENTS, st.integers(1, 60), st.integers(1, 3))
@example(b"a\n\nb", 2, 1)
@example(b"\n", 1, 1)
@example(b"no end", 3, 1)
def test_any_division_gives_the_same_lines(content: bytes, part: int, read_on: int) -> None:
    read, size = Held(content).read, len(content)
    parts = chunks.parts(size, part)
    lines = [line for limits in parts for line in chunks.split(read, size, *limits, read_on=read_on)]
    assert [(line.offset, line.content) for line in lines] == _in_one_pass(content)
    assert all(line.size == len(line.content or b"") for line in lines)


@given(CONTENTS, st.integers(1, 60))
def test_lines_are_counted_as_they_are_split(content: bytes, part: int) -> None:
    read, size = Held(content).read, len(content)
    for limits in chunks.parts(size, part):
        assert chunks.count_lines(read, *limits) == len(list(chunks.split(read, size, *limits)))


@given(st.binary(max_size=300), st.integers(1, 60), st.integers(0, 20))
def test_a_line_that_is_too_long_is_told_by_its_size(content: bytes, part: int, longest: int) -> None:
    read, size = Held(content).read, len(content)
    lines = [line for limits in chunks.parts(size, part) for line in chunks.split(read, size, *limits, longest=longest)]
    assert [(line.offset, line.size) for line in lines] == [(at, len(line)) for at, line in _in_one_pass(content)]
    assert all((line.content is None) == (line.size > longest) for line in lines)


def test_a_line_without_end_is_read_in_small_pieces() -> None:
    held = Held(b"{" * 5_000_000 + b"\nlast")
    (long,) = chunks.split(held.read, len(held.content), 0, 1000, longest=100_000)
    assert (long.offset, long.size, long.content) == (0, 5_000_000, None)
    assert held.most <= 2**20
    assert list(chunks.split(held.read, len(held.content), 1000, 4_000_000)) == []


def test_parts_cover_a_file_once() -> None:
    assert chunks.parts(10, 4) == [(0, 4), (4, 8), (8, 10)]
    assert chunks.parts(8, 4) == [(0, 4), (4, 8)]
    assert chunks.parts(0, 4) == []
