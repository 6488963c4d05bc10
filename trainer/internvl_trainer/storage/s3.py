"""Objects of S3 and its relatives.

The SDK's own default checksums are left to AWS: their trailing form fails on several S3-compatible stores.
"""

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import datetime
from itertools import batched
from pathlib import Path
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError

from internvl_trainer.contract.manifest import StoredObject
from internvl_trainer.contract.object_digest import BLOCK_BYTES, ObjectDigest
from internvl_trainer.storage.digest import CHECKSUMS, Algorithm, StreamChecksum
from internvl_trainer.storage.errors import (
    AlreadyExistsError,
    ObjectChangedError,
    ObjectNotFoundError,
    StoreError,
    StoreUnavailableError,
)
from internvl_trainer.storage.s3_client import (
    ATTEMPTS,
    RACE,
    TAKEN,
    BodyDamagedError,
    ConditionalRaceError,
    S3Options,
    StreamBrokenError,
    code_of,
    damage_told,
    make_client,
    patiently,
    split,
    translated,
)
from internvl_trainer.storage.s3_upload import Upload, stored_object
from internvl_trainer.storage.traits import Traits
from internvl_trainer.storage.unfinished import unfinished

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

CHUNK = 4 * 1024 * 1024
DELETED_AT_ONCE = 1000
"""Keys that one request may delete."""

_PAST_THE_END = frozenset({"416", "InvalidRange"})
_PROBE = b"written to find out what this store can do; may be deleted\n"


class S3:
    """Objects of an S3 bucket. Locations are `bucket/key`."""

    def __init__(self, options: S3Options, traits: Traits = Traits()) -> None:  # noqa: B008  (immutable)
        self._options = options
        self._traits = traits
        self._made: tuple[int, S3Client] | None = None
        self._made_for_bulk: tuple[int, S3Client] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"_options": self._options, "_traits": self._traits, "_made": None, "_made_for_bulk": None}

    def with_traits(self, traits: Traits) -> "S3":
        """The same store, used as it can be used."""
        return S3(self._options, traits)

    @property
    def client(self) -> "S3Client":
        """This process's client. A forked child makes its own: connections must not be shared between processes.

        Two threads that come first together make one each, of which one is kept; both work.
        """
        if self._made is None or self._made[0] != os.getpid():
            self._made = (os.getpid(), make_client(self._options))
        return self._made[1]

    @property
    def bulk_client(self) -> "S3Client":
        """The same for parts of large objects, which are not hashed once more to sign them.

        Their own checksums are signed, and what they amount to is in the SHA-256 of a manifest, which is.
        """
        if self._made_for_bulk is None or self._made_for_bulk[0] != os.getpid():
            self._made_for_bulk = (os.getpid(), make_client(self._options, sign_bodies=False))
        return self._made_for_bulk[1]

    def read(self, location: str) -> bytes:
        """See `ObjectStore.read`."""
        return self._read(location, {})

    def read_range(self, location: str, offset: int, length: int, etag: str) -> bytes:
        """See `ObjectStore.read_range`."""
        if length == 0:
            return b""
        condition = {"IfMatch": etag} if etag else {}
        return self._read(location, condition | {"Range": f"bytes={offset}-{offset + length - 1}"})

    def download(self, location: str, path: Path) -> StoredObject:
        """See `ObjectStore.download`. A broken stream goes on at the byte where it broke, of the same ETag."""
        bucket, key = split(location)
        checksum, digest, etag = StreamChecksum(self._traits.checksum or "CRC64NVME"), ObjectDigest(), ""
        with unfinished(path) as (temporary, sink):
            with translated("read", location):
                for chunk, etag in self._resumed(bucket, key):  # noqa: B007  (the last ETag is the object's)
                    checksum.update(chunk)
                    digest.update(chunk)
                    sink.write(chunk)
            sink.flush()
            temporary.replace(path)
        name = key.rsplit("/", 1)[-1]
        return stored_object(name, checksum.size, checksum.algorithm, checksum.value, digest.blocks, etag)

    def upload(self, path: Path, location: str) -> StoredObject:
        """See `ObjectStore.upload`."""
        bucket, key = split(location)
        # Unsigned bodies are for stores that have shown that they verify checksums.
        client = self.bulk_client if self._traits.checksum and path.stat().st_size >= BLOCK_BYTES else self.client
        with translated("write", location):
            return Upload(client, bucket, key, self._traits.checksum).send(path)

    def put(self, location: str, payload: bytes) -> None:
        """See `ObjectStore.put`."""
        self._put(location, payload, {})

    def put_if_absent(self, location: str, payload: bytes) -> None:
        """See `ObjectStore.put_if_absent`. Stands on If-None-Match, which AWS has since 2024 and SeaweedFS honours."""
        if self._traits.conditional_writes:
            self._put(location, payload, {"IfNoneMatch": "*"})
            return
        # Two writers may both find nothing. Fenced keys leave only an attempt that runs twice to meet itself here.
        with suppress(ObjectNotFoundError):
            self.read(location)
            raise AlreadyExistsError(f"s3://{location} exists already")
        self._put(location, payload, {})
        if self.read(location) != payload:
            raise AlreadyExistsError(f"s3://{location} was written by somebody else at the same moment")

    def list(self, prefix: str) -> Iterator[tuple[str, int, str, datetime | None]]:
        """See `ObjectStore.list`."""
        bucket, key_prefix = split(prefix, key_required=False)
        with translated("list", prefix):
            pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=key_prefix)
            for page in pages:
                for row in page.get("Contents", ()):
                    yield f"{bucket}/{row['Key']}", row["Size"], row.get("ETag", "").strip('"'), row.get("LastModified")

    def stat(self, location: str) -> tuple[int, str, datetime | None]:
        """See `ObjectStore.stat`."""
        bucket, key = split(location)
        with translated("read", location):
            answer = self.client.head_object(Bucket=bucket, Key=key)
            return answer["ContentLength"], answer.get("ETag", "").strip('"'), answer.get("LastModified")

    def delete(self, location: str) -> None:
        """See `ObjectStore.delete`."""
        bucket, key = split(location)
        with translated("delete", location):
            self.client.delete_object(Bucket=bucket, Key=key)

    def delete_all(self, locations: Iterable[str]) -> None:
        """See `ObjectStore.delete_all`."""
        buckets: dict[str, list[str]] = {}
        for location in locations:
            bucket, key = split(location)
            buckets.setdefault(bucket, []).append(key)
        for bucket, keys in buckets.items():
            for some in batched(keys, DELETED_AT_ONCE):
                self._delete_some(bucket, some)

    def unfinished_uploads(self, prefix: str) -> Iterator[tuple[str, str, datetime | None]]:
        """See `ObjectStore.unfinished_uploads`."""
        bucket, key_prefix = split(prefix, key_required=False)
        with translated("list uploads of", prefix):
            pages = self.client.get_paginator("list_multipart_uploads").paginate(Bucket=bucket, Prefix=key_prefix)
            for page in pages:
                for row in page.get("Uploads", ()):
                    yield f"{bucket}/{row['Key']}", row["UploadId"], row.get("Initiated")

    def abort_upload(self, location: str, upload: str) -> None:
        """See `ObjectStore.abort_upload`."""
        bucket, key = split(location)
        # One that has ended meanwhile is none that is unfinished.
        with suppress(ObjectNotFoundError), translated("abort the upload of", location):
            try:
                self.client.abort_multipart_upload(Bucket=bucket, Key=key, UploadId=upload)
            except ClientError as error:
                if code_of(error) != "NoSuchUpload":
                    raise

    def probe(self, prefix: str) -> Traits:
        """See `ObjectStore.probe`: three or four writes of one small object."""
        location = f"{prefix.rstrip('/')}/.probe"
        bucket, key = split(location)
        self._put(location, _PROBE, {})
        conditional = self._answers(bucket, key, {"IfNoneMatch": "*"}) in {409, 412}
        checksum = next((name for name in CHECKSUMS if self._verifies(bucket, key, name)), None)
        # Who may write but not delete keeps the object, which says what it is.
        with suppress(StoreError):
            self.delete(location)
        return Traits(conditional, checksum)

    def _verifies(self, bucket: str, key: str, name: Algorithm) -> bool:
        """Whether the store refuses a wrong checksum of this kind, and takes a right one, also one of several parts."""
        header, checksum = f"Checksum{name}", CHECKSUMS[name]
        wrong = self._answers(bucket, key, {header: checksum.of(b"something else")})
        if wrong != 400 or self._answers(bucket, key, {header: checksum.of(_PROBE)}) != 200:
            return False
        try:
            with translated("write", f"{bucket}/{key}"):
                Upload(self.bulk_client, bucket, key, name).send_parts_of(_PROBE)
        except StoreUnavailableError:
            return False
        return True

    def _answers(self, bucket: str, key: str, extra: dict[str, str]) -> int:
        """The status of the answer to a write that carries something: taken, refused or not known; others raise."""
        with translated("write", f"{bucket}/{key}"):
            try:
                self.bulk_client.put_object(Bucket=bucket, Key=key, Body=_PROBE, **extra)  # type: ignore[arg-type]
            except ClientError as error:
                status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
                if status in {400, 409, 412, 501}:
                    return status
                raise
        return 200

    def _put(self, location: str, payload: bytes, condition: dict[str, str]) -> None:
        bucket, key = split(location)
        checksum = self._traits.checksum
        extra = condition | ({f"Checksum{checksum}": CHECKSUMS[checksum].of(payload)} if checksum else {})

        def put() -> None:
            try:
                with damage_told():
                    self.client.put_object(Bucket=bucket, Key=key, Body=payload, **extra)  # type: ignore[arg-type]
            except ClientError as error:
                if code_of(error) in TAKEN:
                    raise AlreadyExistsError(f"s3://{location} exists already") from None
                if code_of(error) in RACE:
                    raise ConditionalRaceError from None
                raise

        with translated("write", location):
            patiently(put, ConditionalRaceError, BodyDamagedError)

    def _delete_some(self, bucket: str, keys: Iterable[str]) -> None:
        with translated("delete objects of", bucket):
            wanted: Any = {"Objects": [{"Key": key} for key in keys], "Quiet": True}
            answer = self.client.delete_objects(Bucket=bucket, Delete=wanted)
        # Its answer is 200 even where it deleted nothing; asked one by one, each gives its own error.
        for fault in answer.get("Errors", ()):
            self.delete(f"{bucket}/{fault.get('Key', '')}")

    def _read(self, location: str, condition: dict[str, str]) -> bytes:
        bucket, key = split(location)

        def fetch() -> bytes:
            body = self.client.get_object(Bucket=bucket, Key=key, **condition)["Body"]  # type: ignore[arg-type]
            try:
                return body.read()
            except (BotoCoreError, OSError) as error:
                raise StreamBrokenError(type(error).__name__) from None

        with translated("read", location):
            try:
                return patiently(fetch, StreamBrokenError)
            except ClientError as error:
                # A range that begins at or after the object's end holds no byte, as in a file.
                if code_of(error) in _PAST_THE_END:
                    return b""
                if code_of(error) in TAKEN:
                    raise ObjectChangedError(
                        f"s3://{location} was replaced while it was in use; start again to use what is there now"
                    ) from None
                raise

    def _resumed(self, bucket: str, key: str) -> Iterator[tuple[bytes, str]]:
        """The object's chunks, each with the object's ETag; at least one, which is empty for an empty object."""
        offset, etag, idle = 0, "", 0
        while True:
            condition: dict[str, str] = {"Range": f"bytes={offset}-", "IfMatch": etag} if offset else {}
            answer = self.client.get_object(Bucket=bucket, Key=key, **condition)  # type: ignore[arg-type]
            etag = answer.get("ETag", "").strip('"')
            total = offset + answer["ContentLength"]
            if total == 0:
                yield b"", etag
            with suppress(BotoCoreError, OSError):
                for chunk in answer["Body"].iter_chunks(CHUNK):
                    offset, idle = offset + len(chunk), 0
                    yield chunk, etag
            if offset >= total:
                return
            idle += 1
            if idle >= ATTEMPTS:
                raise StreamBrokenError(f"{offset} of {total} bytes arrived")
            time.sleep(0.1 * 2**idle)
