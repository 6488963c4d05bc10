"""Uploading one file to S3: its bytes are read once, and every digest is taken on the way.

Up to one part it is a single PutObject; beyond that a multipart upload, with some parts on their way at once. A part
is a whole number of blocks, so blocks are hashed where parts are sent. Each request carries its own CRC, which a store
that knows S3's checksums verifies before it keeps the bytes.
"""

import io
import queue
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from botocore.exceptions import BotoCoreError, ClientError

from internvl_trainer.contract.manifest import StoredObject
from internvl_trainer.contract.object_digest import BLOCK_BYTES, blocks_of, sha256_of
from internvl_trainer.storage.digest import CHECKSUMS, Algorithm
from internvl_trainer.storage.s3_client import BodyDamagedError, damage_told, patiently

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

MAX_PARTS = 10_000
"""Parts that S3 takes of one object: larger files get larger parts."""

BUFFERS = 4
"""Bounds the memory: so many parts are held, however large the file is. Used again, as fresh memory costs time."""

Body = Any
"""bytes or bytearray: the SDK takes both, its types know one."""


class _Sent(NamedTuple):
    """Some bytes that have arrived."""

    size: int
    etag: str
    checksum: int
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
        size = path.stat().st_size
        part_bytes = -(-max(1, -(-size // MAX_PARTS)) // BLOCK_BYTES) * BLOCK_BYTES
        with path.open("rb") as source:
            whole = self._send_at_once(source.read()) if size < part_bytes else self._send_parts(source, part_bytes)
        name = self.key.rsplit("/", 1)[-1]
        return stored_object(name, whole.size, self._algorithm, whole.checksum, whole.blocks, whole.etag)

    def send_parts_of(self, payload: bytes) -> None:
        """Send a few bytes as an upload of parts, to find out whether the store takes it so."""
        self._send_parts(io.BytesIO(payload), len(payload))

    @property
    def _algorithm(self) -> Algorithm:
        """Of the CRC that the manifest has: the better one where the store verifies none."""
        return self.checksum or "CRC64NVME"

    def _send_at_once(self, body: Body) -> _Sent:
        value = CHECKSUMS[self._algorithm].advance(body, 0)

        def put() -> str:
            with damage_told():
                return self.client.put_object(Bucket=self.bucket, Key=self.key, Body=body, **self._header(value))[
                    "ETag"
                ]

        return _Sent(len(body), patiently(put, BodyDamagedError), value, blocks_of(body))

    def _send_parts(self, source: BinaryIO, part_bytes: int) -> _Sent:
        declared: dict[str, Any] = {}
        if self.checksum:
            declared = {"ChecksumAlgorithm": self.checksum, "ChecksumType": "FULL_OBJECT"}
        upload = self.client.create_multipart_upload(Bucket=self.bucket, Key=self.key, **declared)["UploadId"]
        try:
            sent = self._stream(upload, source, part_bytes)
            value = 0
            for part in sent:
                value = CHECKSUMS[self._algorithm].combine(value, part.checksum, part.size)
            etag = self._complete(upload, sent, value)
        except BaseException:
            # Parts of an upload that is neither completed nor aborted are stored, and billed, for ever.
            with suppress(ClientError, BotoCoreError):
                self.client.abort_multipart_upload(Bucket=self.bucket, Key=self.key, UploadId=upload)
            raise
        return _Sent(sum(part.size for part in sent), etag, value, tuple(each for part in sent for each in part.blocks))

    def _stream(self, upload: str, source: BinaryIO, part_bytes: int) -> list[_Sent]:
        free: queue.SimpleQueue[bytearray] = queue.SimpleQueue()
        for _ in range(BUFFERS):
            free.put(bytearray(part_bytes))

        failed = threading.Event()

        def send(number: int, body: bytearray) -> _Sent:
            try:
                return self._send_part(upload, number, body)
            except BaseException:
                failed.set()
                raise
            finally:
                free.put(body)

        with ThreadPoolExecutor(BUFFERS, thread_name_prefix="s3-part") as pool:
            futures: list[Future[_Sent]] = []
            while not failed.is_set():
                body = free.get()
                length = source.readinto(body)  # type: ignore[attr-defined]
                del body[length:]
                if not body:
                    break
                futures.append(pool.submit(send, len(futures) + 1, body))
            return [future.result() for future in futures]

    def _send_part(self, upload: str, number: int, body: Body) -> _Sent:
        value = CHECKSUMS[self._algorithm].advance(body, 0)

        def put() -> str:
            with damage_told():
                return self.client.upload_part(
                    Bucket=self.bucket, Key=self.key, UploadId=upload, PartNumber=number, Body=body,
                    **self._header(value),
                )["ETag"]  # fmt: skip

        return _Sent(len(body), patiently(put, BodyDamagedError), value, blocks_of(body))

    def _complete(self, upload: str, sent: list[_Sent], value: int) -> str:
        parts: Any = {
            "Parts": [
                {"PartNumber": number, "ETag": part.etag, **self._header(part.checksum)}
                for number, part in enumerate(sent, start=1)
            ]
        }
        whole: dict[str, Any] = {"ChecksumType": "FULL_OBJECT", **self._header(value)} if self.checksum else {}
        return self.client.complete_multipart_upload(
            Bucket=self.bucket, Key=self.key, UploadId=upload, MultipartUpload=parts, **whole
        )["ETag"]

    def _header(self, value: int) -> dict[str, Any]:
        return {f"Checksum{self.checksum}": CHECKSUMS[self.checksum].encode(value)} if self.checksum else {}


def stored_object(
    name: str, size: int, algorithm: Algorithm, checksum: int, blocks: tuple[str, ...], etag: str = ""
) -> StoredObject:
    """What is known of an object whose bytes have passed by."""
    several, text = len(blocks) > 1, CHECKSUMS[algorithm].encode(checksum)
    return StoredObject(
        key=name,
        size=size,
        sha256=sha256_of(blocks),
        crc64nvme=text if algorithm == "CRC64NVME" else "",
        crc32=text if algorithm == "CRC32" else "",
        etag=etag.strip('"'),
        block_bytes=BLOCK_BYTES if several else 0,
        blocks=blocks if several else (),
    )
