"""Digests of a stream, computed while it passes by."""

import base64
import hashlib
import zlib


class StreamDigest:
    """SHA-256, CRC32 and size of all bytes seen so far. Not thread-safe."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()
        self._crc32 = 0
        self.size = 0

    def update(self, chunk: bytes) -> None:
        """Take the next bytes of the stream into account."""
        self._sha256.update(chunk)
        self._crc32 = zlib.crc32(chunk, self._crc32)
        self.size += len(chunk)

    @property
    def sha256(self) -> str:
        """64 lower-case hexadecimal digits."""
        return self._sha256.hexdigest()

    @property
    def crc32(self) -> str:
        """Base64 of the big-endian CRC32, as S3's x-amz-checksum-crc32 has it."""
        return encode_crc32(self._crc32)


def encode_crc32(value: int) -> str:
    """A CRC32 in the form of S3's x-amz-checksum-crc32: base64 of four big-endian bytes."""
    return base64.b64encode(value.to_bytes(4, "big")).decode("ascii")


def crc32_of(payload: bytes) -> str:
    """The CRC32 of bytes at hand, in the form of S3's x-amz-checksum-crc32."""
    return encode_crc32(zlib.crc32(payload))
