"""Digests of a stream, computed while it passes by."""

import base64
import hashlib
import zlib
from collections.abc import Callable
from typing import Literal, NamedTuple

from awscrt import checksums

Algorithm = Literal["CRC64NVME", "CRC32"]


class Checksum(NamedTuple):
    """A cyclic redundancy check that S3 knows, of a whole object or of one request's body."""

    algorithm: Algorithm
    width: int
    """Bytes of its value."""
    advance: Callable[[bytes | bytearray, int], int]
    """Its value after some more bytes."""
    combine: Callable[[int, int, int], int]
    """The value of two pieces in a row, from the values of both and the length of the second."""

    def of(self, payload: bytes | bytearray) -> str:
        """The checksum of bytes at hand, as S3's headers have it."""
        return self.encode(self.advance(payload, 0))

    def encode(self, value: int) -> str:
        """Base64 of the big-endian value."""
        return base64.b64encode(value.to_bytes(self.width, "big")).decode("ascii")


CHECKSUMS: dict[Algorithm, Checksum] = {
    "CRC64NVME": Checksum("CRC64NVME", 8, checksums.crc64nvme, checksums.combine_crc64nvme),
    "CRC32": Checksum("CRC32", 4, zlib.crc32, checksums.combine_crc32),
}
"""In the order in which they are preferred."""


class StreamDigest:
    """SHA-256 and size of all bytes seen so far. Not thread-safe."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()
        self.size = 0

    def update(self, chunk: bytes) -> None:
        """Take the next bytes of the stream into account."""
        self._sha256.update(chunk)
        self.size += len(chunk)

    @property
    def sha256(self) -> str:
        """64 lower-case hexadecimal digits."""
        return self._sha256.hexdigest()


class StreamChecksum:
    """A CRC and the size of all bytes seen so far. Not thread-safe.

    Args:
        algorithm: of the CRC.
    """

    def __init__(self, algorithm: Algorithm) -> None:
        self._checksum = CHECKSUMS[algorithm]
        self._value = 0
        self.size = 0

    def update(self, chunk: bytes) -> None:
        """Take the next bytes of the stream into account."""
        self._value = self._checksum.advance(chunk, self._value)
        self.size += len(chunk)

    @property
    def algorithm(self) -> Algorithm:
        """Of the CRC."""
        return self._checksum.algorithm

    @property
    def value(self) -> int:
        """Of the CRC."""
        return self._value
