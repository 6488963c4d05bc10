"""Which blocks of an object hold the bytes that are asked for: pure."""

from collections.abc import Iterable
from typing import NamedTuple

from internvl_trainer.contract.manifest import StoredObject


class Range(NamedTuple):
    """Bytes of an object."""

    offset: int
    length: int


class Block(NamedTuple):
    """A range of an object that can be verified by itself."""

    offset: int
    length: int
    sha256: str


def blocks_of(stored: StoredObject) -> list[Block]:
    """All blocks of an object, in order; without recorded blocks the whole is one."""
    if not stored.blocks:
        return [Block(0, stored.size, stored.sha256)]
    return [
        Block(offset, min(stored.block_bytes, stored.size - offset), digest)
        for offset, digest in zip(range(0, stored.size, stored.block_bytes), stored.blocks, strict=True)
    ]


def blocks_with(stored: StoredObject, wanted: Iterable[Range]) -> list[Block]:
    """The blocks that hold any of the bytes asked for, each once, in order."""
    blocks = blocks_of(stored)
    if len(blocks) == 1:
        return blocks
    numbers: set[int] = set()
    for asked in wanted:
        last = max(asked.offset, asked.offset + asked.length - 1)
        numbers.update(range(asked.offset // stored.block_bytes, last // stored.block_bytes + 1))
    return [blocks[number] for number in sorted(numbers) if number < len(blocks)]
