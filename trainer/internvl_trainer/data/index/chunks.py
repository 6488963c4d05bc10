"""A file of lines in parts of bytes, so that several processes can read one file. Pure: bytes in, lines out.

A part has the lines that begin in it; the last of them may end in a later part. So any division of a file gives the
same lines.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from internvl_trainer.data.records import LONGEST_LINE

Read = Callable[[int, int], bytes]
"""So many bytes of a file from an offset on; all of them, where they are inside the file."""

READ_ON = 64 * 1024
"""Bytes that are read along with a part, for its last line's end."""

_BLOCKS = 16
"""Times READ_ON that are read at once of a line that goes on beyond that."""


class Line(NamedTuple):
    """One line, blank or not, without its newline. `content` is None where it is longer than is held in memory."""

    offset: int
    size: int
    content: bytes | None


def parts(size: int, part: int) -> list[tuple[int, int]]:
    """The parts (begin, end) of a file of `size` bytes, each of `part` bytes but for the last."""
    return [(begin, min(begin + part, size)) for begin in range(0, size, part)]


def count_lines(read: Read, begin: int, end: int) -> int:
    """How many lines begin at bytes begin..end-1."""
    if begin == 0:
        return int(end > 0) + read(0, end - 1).count(b"\n") if end else 0
    return read(begin - 1, end - begin).count(b"\n")


def split(
    read: Read, size: int, begin: int, end: int, *, longest: int = LONGEST_LINE, read_on: int = READ_ON
) -> Iterator[Line]:
    """The lines of a file of `size` bytes that begin at bytes begin..end-1, in order.

    Args:
        longest: lines with more bytes come without their content.
        read_on: bytes that are read beyond `end` at once.
    """
    # The byte before tells whether a line begins with the part.
    first = max(begin - 1, 0)
    data = read(first, min(end + read_on, size) - first)
    at = 0 if begin == 0 else data.find(b"\n") + 1
    if begin and not at:
        return
    while (offset := first + at) < end:
        newline = data.find(b"\n", at)
        if newline < 0:
            yield _last(read, size, offset, data[at:], longest, _BLOCKS * read_on)
            return
        yield _line(offset, newline - at, data[at:newline], longest)
        at = newline + 1


def _line(offset: int, size: int, content: bytes, longest: int) -> Line:
    return Line(offset, size, content if size <= longest else None)


def _last(read: Read, size: int, offset: int, head: bytes, longest: int, block_size: int) -> Line:
    """The line whose first bytes are `head`; its end is looked for in what follows, in bounded memory."""
    held, length = [head], len(head)
    while offset + length < size:
        block = read(offset + length, min(block_size, size - offset - length))
        newline = block.find(b"\n")
        held.append(block if newline < 0 else block[:newline])
        length += len(held[-1])
        if length > longest:
            held.clear()
        if newline >= 0:
            break
    return _line(offset, length, b"".join(held), longest)
