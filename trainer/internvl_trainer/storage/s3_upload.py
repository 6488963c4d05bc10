"""Uploading one file to S3: its bytes are read once, and every digest is taken on the way.

Up to one part it is a single PutObject; beyond that a multipart upload, with some parts on their way at once. A part
is a whole number of blocks, so blocks are hashed where parts are sent. Each request carries its own CRC, which a store
that knows S3's checksums verifies before it keeps the bytes.
"""

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from botocore.exceptions import BotoCoreError, ClientError

from internvl_trainer.contract.manifest import StoredObject
from internvl_trainer.contract.object_digest import BLOCK_BYTES, blocks_of, sha256_of
from internvl_trainer.storage.digest import CHECKSUMS, Algorithm, StreamChecksum
from internvl_trainer.storage.s3_client import BodyDamagedError, damage_told, patiently

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

MAX_PARTS = 10_000
"""Parts that S3 takes of one object: larger files get larger parts."""

PARTS_IN_FLIGHT = 4
"""Bounds the memory: so many parts, and the one that is being read, are held, however large the file is."""


class _Part(NamedTuple):
    """A part that has arrived."""

    answer: dict[str, Any]
    blocks: tuple[str, ...]


@dataclass(frozen=True)
class Upload:
    """One file on its way to one object.

    Attributes:
        client: of the store.
        bucket, key: of the object.
        checksum: what the store is to verify; None: nothing.
    """

    client: "S3Client"
    bucket: str
    key: str
    checksum: Algorithm | None

    def send(self, path: Path) -> StoredObject:
        """Upload a file; the SDK's errors come out as they are."""
        part_bytes = -(-max(1, -(-path.stat().st_size // MAX_PARTS)) // BLOCK_BYTES) * BLOCK_BYTES
        checksum = StreamChecksum(self.checksum or "CRC64NVME")
        with path.open("rb") as source:
            first = source.read(part_bytes)
            checksum.update(first)
            if len(first) < part_bytes:
                etag, blocks = self._send_at_once(first), blocks_of(first)
            else:
                etag, blocks = self._send_parts(first, source, part_bytes, checksum)
        return stored_object(self.key.rsplit("/", 1)[-1], checksum, blocks, etag)

    def _send_at_once(self, body: bytes) -> str:
        def put() -> str:
            with damage_told():
                return self.client.put_object(Bucket=self.bucket, Key=self.key, Body=body, **self._checksum_of(body))[
                    "ETag"
                ]

        return patiently(put, BodyDamagedError)

    def _send_parts(
        self, first: bytes, source: BinaryIO, part_bytes: int, checksum: StreamChecksum
    ) -> tuple[str, tuple[str, ...]]:
        declared: dict[str, Any] = {}
        if self.checksum:
            declared = {"ChecksumAlgorithm": self.checksum, "ChecksumType": "FULL_OBJECT"}
        upload = self.client.create_multipart_upload(Bucket=self.bucket, Key=self.key, **declared)["UploadId"]
        try:
            done = self._stream(upload, first, source, part_bytes, checksum)
            whole: dict[str, Any] = {}
            if self.checksum:
                whole = {"ChecksumType": "FULL_OBJECT", f"Checksum{self.checksum}": checksum.text}
            parts: Any = {"Parts": [part.answer for part in done]}
            answer = self.client.complete_multipart_upload(
                Bucket=self.bucket, Key=self.key, UploadId=upload, MultipartUpload=parts, **whole
            )
        except BaseException:
            # Parts of an upload that is neither completed nor aborted are stored, and billed, for ever.
            with suppress(ClientError, BotoCoreError):
                self.client.abort_multipart_upload(Bucket=self.bucket, Key=self.key, UploadId=upload)
            raise
        return answer["ETag"], tuple(block for part in done for block in part.blocks)

    def _stream(
        self, upload: str, first: bytes, source: BinaryIO, part_bytes: int, checksum: StreamChecksum
    ) -> list[_Part]:
        done: list[_Part] = []
        with ThreadPoolExecutor(PARTS_IN_FLIGHT, thread_name_prefix="s3-part") as pool:
            pending: deque[Future[_Part]] = deque([pool.submit(self._send_part, upload, 1, first)])
            number = 1
            while body := source.read(part_bytes):
                number += 1
                if len(pending) >= PARTS_IN_FLIGHT:
                    done.append(pending.popleft().result())
                pending.append(pool.submit(self._send_part, upload, number, body))
                checksum.update(body)
            return done + [future.result() for future in pending]

    def _send_part(self, upload: str, number: int, body: bytes) -> _Part:
        checksum = self._checksum_of(body)

        def put() -> str:
            with damage_told():
                return self.client.upload_part(
                    Bucket=self.bucket, Key=self.key, UploadId=upload, PartNumber=number, Body=body, **checksum
                )["ETag"]

        etag = patiently(put, BodyDamagedError)
        return _Part({"PartNumber": number, "ETag": etag, **checksum}, blocks_of(body))

    def _checksum_of(self, body: bytes) -> dict[str, Any]:
        return {f"Checksum{self.checksum}": CHECKSUMS[self.checksum].of(body)} if self.checksum else {}


def stored_object(name: str, checksum: StreamChecksum, blocks: tuple[str, ...], etag: str = "") -> StoredObject:
    """What is known of an object whose bytes have passed by."""
    several = len(blocks) > 1
    return StoredObject(
        key=name,
        size=checksum.size,
        sha256=sha256_of(blocks),
        crc64nvme=checksum.text if checksum.algorithm == "CRC64NVME" else "",
        crc32=checksum.text if checksum.algorithm == "CRC32" else "",
        etag=etag.strip('"'),
        block_bytes=BLOCK_BYTES if several else 0,
        blocks=blocks if several else (),
    )
