"""The lines of a JSONL file, as bytes, and its division into ranges that processes can take."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

RANGE = 4 * 1024 * 1024
"""Bytes that one process takes at a time."""


class Line(NamedTuple):
    """A line with its 1-based number. `text` is what the file has, its end of line included where there is one."""

    number: int
    text: bytes

    @property
    def is_blank(self) -> bool:
        """Whether there is no sample in it."""
        return not self.text.strip()


class Range(NamedTuple):
    """Bytes [start, end) of a file; whole lines."""

    start: int
    end: int


def ranges(path: Path, size: int = RANGE) -> Iterator[Range]:
    """The file in ranges of about `size` bytes, in order; a range ends where a line ends."""
    start = 0
    with path.open("rb") as stream:
        total = os.fstat(stream.fileno()).st_size
        while start < total:
            stream.seek(start + size - 1)
            stream.readline()
            end = min(stream.tell(), total)
            yield Range(start, end)
            start = end


def lines(path: Path, part: Range | None = None) -> Iterator[Line]:
    """The lines of a file, or of one range of it, numbered from 1."""
    with path.open("rb") as stream:
        left = os.fstat(stream.fileno()).st_size if part is None else part.end - part.start
        if part is not None:
            stream.seek(part.start)
        number = 0
        while left > 0 and (text := stream.readline(left)):
            number += 1
            left -= len(text)
            yield Line(number, text)
