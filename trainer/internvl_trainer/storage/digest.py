"""Digests of a stream, computed while it passes by."""

import base64
import hashlib
import zlib
from collections.abc import Callable
from typing import Literal, NamedTuple

from awscrt import checksums

BLOCK = 32 * 1024 * 1024
"""Bytes of an object that share one SHA-256 in a manifest: the smallest range that can be read and verified alone."""

Algorithm = Literal["CRC64NVME", "CRC32"]


class Checksum(NamedTuple):
    """A cyclic redundancy check that S3 knows, of a whole object or of one request's body."""

    algorithm: Algorithm
    width: int
    """Bytes of its value."""
    advance: Callable[[bytes, int], int]
    """Its value after some more bytes."""

    def of(self, payload: bytes) -> str:
        """The checksum of bytes at hand, as S3's headers have it."""
        return self.encode(self.advance(payload, 0))

    def encode(self, value: int) -> str:
        """Base64 of the big-endian value."""
        return base64.b64encode(value.to_bytes(self.width, "big")).decode("ascii")


CHECKSUMS: dict[Algorithm, Checksum] = {
    "CRC64NVME": Checksum("CRC64NVME", 8, checksums.crc64nvme),
    "CRC32": Checksum("CRC32", 4, zlib.crc32),
}
"""In the order in which they are preferred."""


class StreamDigest:
    """SHA-256, a CRC and the size of all bytes seen so far. Not thread-safe.

    Args:
        algorithm: of the CRC.
    """

    def __init__(self, algorithm: Algorithm = "CRC32") -> None:
        self._sha256 = hashlib.sha256()
        self._checksum = CHECKSUMS[algorithm]
        self._value = 0
        self.size = 0

    def update(self, chunk: bytes) -> None:
        """Take the next bytes of the stream into account."""
        self._sha256.update(chunk)
        self._value = self._checksum.advance(chunk, self._value)
        self.size += len(chunk)

    @property
    def sha256(self) -> str:
        """64 lower-case hexadecimal digits."""
        return self._sha256.hexdigest()

    @property
    def algorithm(self) -> Algorithm:
        """Of the CRC."""
        return self._checksum.algorithm

    @property
    def checksum(self) -> str:
        """The CRC as S3's x-amz-checksum-* headers have it: base64 of its big-endian value."""
        return self._checksum.encode(self._value)


class BlockDigest:
    """The SHA-256 of each `BLOCK` of a stream, the last one perhaps shorter. Not thread-safe."""

    def __init__(self) -> None:
        self._done: list[str] = []
        self._block = hashlib.sha256()
        self._filled = 0

    def update(self, chunk: bytes) -> None:
        """Take the next bytes of the stream into account."""
        view = memoryview(chunk)
        while view:
            room = BLOCK - self._filled
            piece, view = view[:room], view[room:]
            self._block.update(piece)
            self._filled += len(piece)
            if self._filled == BLOCK:
                self._done.append(self._block.hexdigest())
                self._block, self._filled = hashlib.sha256(), 0

    @property
    def sha256(self) -> tuple[str, ...]:
        """Of each block; empty where the whole stream is no longer than one, whose own SHA-256 says the same."""
        if len(self._done) + bool(self._filled) <= 1:
            return ()
        return (*self._done, self._block.hexdigest()) if self._filled else tuple(self._done)


def blocks_of(payload: bytes) -> tuple[str, ...]:
    """The SHA-256 of each `BLOCK` of bytes at hand; unlike `BlockDigest.sha256`, of a single one as well."""
    view = memoryview(payload)
    return tuple(hashlib.sha256(view[begin : begin + BLOCK]).hexdigest() for begin in range(0, len(view), BLOCK))
