"""The SHA-256 of an object, which may be taken of its blocks in any order, at once, or of some of them alone. Pure."""

import hashlib
from collections.abc import Iterable, Sequence

BLOCK_BYTES = 32 * 1024 * 1024
"""Bytes of an object that share one SHA-256 in a manifest: the smallest range that can be read and verified alone."""


class ObjectDigest:
    """The SHA-256 of each block of a stream, and of the whole. Not thread-safe.

    Args:
        block_bytes: size of a block; 0: the whole stream is the only one.
    """

    def __init__(self, block_bytes: int = BLOCK_BYTES) -> None:
        self._block_bytes = block_bytes
        self._done: list[str] = []
        self._block = hashlib.sha256()
        self._filled = 0

    def update(self, chunk: bytes) -> None:
        """Take the next bytes of the stream into account."""
        view = memoryview(chunk)
        while view:
            room = self._block_bytes - self._filled if self._block_bytes else len(view)
            piece, view = view[:room], view[room:]
            self._block.update(piece)
            self._filled += len(piece)
            if self._block_bytes and self._filled == self._block_bytes:
                self._done.append(self._block.hexdigest())
                self._block, self._filled = hashlib.sha256(), 0

    @property
    def blocks(self) -> tuple[str, ...]:
        """Of each block, the last one perhaps shorter; an empty stream is one."""
        if self._filled or not self._done:
            return (*self._done, self._block.hexdigest())
        return tuple(self._done)

    @property
    def sha256(self) -> str:
        """Of the whole."""
        return sha256_of(self.blocks)


def sha256_of(blocks: Sequence[str]) -> str:
    """The SHA-256 of an object by those of its blocks: the only one's own, else that of all of them in a row.

    The latter is how S3 itself has the SHA-256 of a multipart upload, its bytes being hashed once, part by part.
    """
    if len(blocks) == 1:
        return blocks[0]
    return hashlib.sha256(b"".join(map(bytes.fromhex, blocks))).hexdigest()


def blocks_of(payload: bytes | bytearray) -> tuple[str, ...]:
    """The SHA-256 of each block of bytes at hand."""
    view = memoryview(payload)
    begins: Iterable[int] = range(0, max(1, len(view)), BLOCK_BYTES)
    return tuple(hashlib.sha256(view[begin : begin + BLOCK_BYTES]).hexdigest() for begin in begins)
