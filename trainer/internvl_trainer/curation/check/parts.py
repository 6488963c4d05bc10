"""An annotation file in numbered parts, small enough that progress is seen and an interruption loses little."""

from collections.abc import Iterator
from typing import NamedTuple

from internvl_trainer.data.index.lines import AnnotationFile

BLOCK = 4 * 1024 * 1024
"""Bytes that are read at a time to number lines; a multiple of every part's size."""


class NumberedPart(NamedTuple):
    """The lines that begin at bytes begin..end-1 of a file."""

    begin: int
    end: int
    first_line: int
    """1-based number of the first of them."""


def numbered_parts(file: AnnotationFile, part_bytes: int) -> Iterator[NumberedPart]:
    """A file in parts of `part_bytes`, a divisor of BLOCK, in order. The file is read once, in bounded memory.

    Raises:
        StoreError: the store did not answer.
    """
    newlines, within_line = 0, False
    for block in range(0, file.size, BLOCK):
        payload = file.read(block, min(BLOCK, file.size - block))
        for at in range(0, len(payload), part_bytes):
            part = payload[at : at + part_bytes]
            yield NumberedPart(block + at, block + at + len(part), newlines + (2 if within_line else 1))
            newlines += part.count(b"\n")
            within_line = not part.endswith(b"\n")
