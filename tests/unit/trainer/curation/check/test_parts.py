"""Annotation files are cut into parts whose lines keep their numbers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internvl_trainer.curation.check import parts
from internvl_trainer.curation.check.parts import numbered_parts
from internvl_trainer.data.index.chunks import split

pytestmark = pytest.mark.unit


class InMemory:
    """An annotation file that is not there."""

    fingerprint = ()
    name = "memory.jsonl"

    def __init__(self, payload: bytes) -> None:
        self.payload = payload
        self.size = len(payload)

    def read(self, offset: int, length: int) -> bytes:
        return self.payload[offset : offset + length]


@given(
    lines=st.lists(st.text("ab", max_size=5)),
    end=st.sampled_from(["", "\n"]),
    size=st.integers(1, 9),
    blocks=st.integers(1, 3),
)
def test_any_cut_gives_each_line_its_number(lines: list[str], end: str, size: int, blocks: int) -> None:
    file = InMemory(("\n".join(lines) + end).encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "BLOCK", size * blocks)
        cut = list(numbered_parts(file, size))
    found = {
        number: line.content
        for begin, end_, first in cut
        for number, line in enumerate(split(file.read, file.size, begin, end_), start=first)
    }
    expected = file.payload.decode().split("\n")
    if expected[-1] == "":
        expected.pop()
    assert found == {number: line.encode() for number, line in enumerate(expected, start=1)}
