"""Shard files in scratch, mapped into memory: where weights and optimizer are copied to while training stands still.

The files are made once and used again by each save, so a save costs one copy of the values and nothing else. They are
ordinary files: the kernel writes them to scratch when it likes, and whoever reads them meanwhile, as the uploader does,
reads what has been copied.
"""

import mmap
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import torch

from internvl_trainer.checkpoint.blob import ALIGNMENT, Blob, blob_of

SHARD_BYTES = 256 * 1024**2
"""How large a shard file grows, unless one tensor alone is larger: several of a rank go up at once."""


class Piece(NamedTuple):
    """A tensor that this process saves: the part of a larger one that it owns.

    `shape` is of the part, with an axis for the layers where the whole tensor is a stack of layers.
    """

    key: str
    component: str
    dtype: torch.dtype
    whole: tuple[int, ...]
    """Shape of the whole tensor."""
    offset: tuple[int, ...]
    """Where in it the part begins."""
    shape: tuple[int, ...]


class Placed(NamedTuple):
    """Where in a shard file a piece lies."""

    piece: Piece
    file: str
    begin: int
    length: int


def lay_out(pieces: Iterable[Piece], rank: int, *, shard_bytes: int = SHARD_BYTES) -> list[Placed]:
    """Deal pieces out to files: those of one component lie together, in the order given. Pure.

    Files are named `<component>__<rank>_<number>.distcp`.
    """
    placed: list[Placed] = []
    number: dict[str, int] = defaultdict(int)
    filled: dict[str, int] = defaultdict(int)
    for piece in pieces:
        size, end = blob_of(piece.dtype, piece.shape).size, filled[piece.component]
        begin = -(-end // ALIGNMENT) * ALIGNMENT
        if end and begin + size > shard_bytes:
            begin, number[piece.component] = 0, number[piece.component] + 1
        file = f"{piece.component}__{rank}_{number[piece.component]}.distcp"
        placed.append(Placed(piece, file, begin, size))
        filled[piece.component] = begin + size
    return placed


class Staging:
    """This process's shard files, with room for the pieces of one layout.

    Args:
        folder: exists.
        placed: what lies where.

    Raises:
        OSError: there is not enough room.
    """

    def __init__(self, folder: Path, placed: Sequence[Placed]) -> None:
        self._folder = folder
        self._maps: dict[str, mmap.mmap] = {}
        sizes: dict[str, int] = {}
        for each in placed:
            sizes[each.file] = each.begin + each.length
        for file, size in sizes.items():
            self._maps[file] = _mapped(folder / file, size)
        self._values = [self._prepare(each) for each in placed]

    def fill(self, tensors: Sequence[torch.Tensor]) -> int:
        """Copy values into place, one tensor for each piece in its order; the number of bytes copied."""
        for place, tensor in zip(self._values, tensors, strict=True):
            if place.numel():
                place.copy_(tensor.detach().view(place.shape) if tensor.is_contiguous() else tensor.detach())
        return sum(place.nbytes for place in self._values)

    def close(self) -> None:
        """Give the memory back, and remove the files."""
        self._values = []
        for file, mapped in self._maps.items():
            # A tensor of ours that somebody still holds keeps its memory.
            with suppress(BufferError):
                mapped.close()
            (self._folder / file).unlink(missing_ok=True)
        self._maps = {}

    def _prepare(self, each: Placed) -> torch.Tensor:
        """Write what surrounds the values of a piece; the place for them."""
        piece, mapped = each.piece, self._maps[each.file]
        blob: Blob = blob_of(piece.dtype, piece.shape)
        first = each.begin + len(blob.head)
        mapped[each.begin : first] = blob.head
        mapped[first + blob.values : each.begin + each.length] = blob.tail
        if not blob.values:
            return torch.empty(piece.shape, dtype=piece.dtype)
        raw = torch.frombuffer(mapped, dtype=torch.uint8, count=blob.values, offset=first)
        return raw.view(piece.dtype).view(piece.shape)


def _mapped(path: Path, size: int) -> mmap.mmap:
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    try:
        # A hole would be filled when it is written to; if there is no room then, the kernel kills the process.
        os.posix_fallocate(handle, 0, size)
        return mmap.mmap(handle, size)
    finally:
        os.close(handle)
