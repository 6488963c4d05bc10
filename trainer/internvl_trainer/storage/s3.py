"""S3 and its relatives, through boto3.

An upload reads its file once. Up to one part it is a single PutObject; beyond that a multipart upload, whose parts are
hashed in file order while earlier ones are still on their way. Each request carries its own CRC32, which a store that
knows S3's checksums verifies before it keeps the bytes; other stores ignore the header. The SDK's own default
checksums are left to AWS: their trailing form fails on several S3-compatible stores.
"""

import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
)
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from internvl_trainer.contract.manifest import StoredObject
from internvl_trainer.storage.digest import StreamDigest, crc32_of
from internvl_trainer.storage.errors import (
    AlreadyExistsError,
    InvalidLocationError,
    ObjectChangedError,
    ObjectNotFoundError,
    StoreDeniedError,
    StoreError,
    StoreUnavailableError,
)
from internvl_trainer.storage.unfinished import unfinished

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

PART = 32 * 1024 * 1024
"""Bytes of one part of an upload. S3 takes at most 10,000 parts, so larger files get larger parts."""

LONGEST_KEY = 1024
"""Bytes of the longest name of an object; stores answer a longer one in ways of their own."""

MAX_PARTS = 10_000
PARTS_IN_FLIGHT = 4
CHUNK = 4 * 1024 * 1024
STREAM_ATTEMPTS = 5
"""How often a download goes on, from where it broke, without having received a byte in between."""

_NOT_FOUND = frozenset({"404", "NoSuchKey", "NoSuchBucket", "NotFound"})
_DENIED = frozenset(
    {"401", "403", "AccessDenied", "ExpiredToken", "InvalidAccessKeyId", "InvalidToken", "SignatureDoesNotMatch"}
)
_TAKEN = frozenset({"412", "PreconditionFailed"})
_PAST_THE_END = frozenset({"416", "InvalidRange"})
_RACE = frozenset({"409", "ConditionalRequestConflict"})


@dataclass(frozen=True)
class S3Options:
    """How to reach the store; credentials come from boto3's standard chain alone."""

    endpoint_url: str | None = None
    region: str | None = None
    path_style: bool = True

    def __post_init__(self) -> None:
        if self.endpoint_url is None:
            return
        parts = urlsplit(self.endpoint_url)
        if parts.username or parts.password:
            raise InvalidLocationError(
                "the S3 endpoint URL carries credentials; give them by the environment or a mounted credentials file"
            )
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise InvalidLocationError(f"S3 endpoint {self.endpoint_url!r} is no http:// or https:// URL")


class _ConditionalRaceError(Exception):
    """Two conditional writes met; S3 asks both writers to try again."""


class _StreamBrokenError(Exception):
    """The body of an answer ended early."""


class S3:
    """Objects of an S3 bucket. Locations are `bucket/key`."""

    def __init__(self, options: S3Options) -> None:
        self._options = options
        self._made: tuple[int, S3Client] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"_options": self._options, "_made": None}

    @property
    def client(self) -> "S3Client":
        """This process's client. A forked child makes its own: connections must not be shared between processes.

        Two threads that come first together make one each, of which one is kept; both work.
        """
        if self._made is None or self._made[0] != os.getpid():
            self._made = (os.getpid(), _client(self._options))
        return self._made[1]

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
        bucket, key = _split(location)
        digest, etag = StreamDigest(), ""
        with unfinished(path) as (temporary, sink):
            with _translated("read", location):
                for chunk, etag in self._resumed(bucket, key):  # noqa: B007  (the last ETag is the object's)
                    digest.update(chunk)
                    sink.write(chunk)
            sink.flush()
            temporary.replace(path)
        name = key.rsplit("/", 1)[-1]
        return StoredObject(key=name, size=digest.size, sha256=digest.sha256, crc32=digest.crc32, etag=etag)

    def upload(self, path: Path, location: str) -> StoredObject:
        """See `ObjectStore.upload`."""
        bucket, key = _split(location)
        part = max(PART, -(-path.stat().st_size // MAX_PARTS))
        digest = StreamDigest()
        with _translated("write", location), path.open("rb") as source:
            first = source.read(part)
            digest.update(first)
            if len(first) < part:
                answer = self.client.put_object(Bucket=bucket, Key=key, Body=first, ChecksumCRC32=digest.crc32)
                etag = answer["ETag"]
            else:
                parts = iter(lambda: source.read(part), b"")
                etag = self._upload_parts(bucket, key, first, parts, digest)
        return StoredObject(
            key=key.rsplit("/", 1)[-1],
            size=digest.size,
            sha256=digest.sha256,
            crc32=digest.crc32,
            etag=etag.strip('"'),
        )

    def put_if_absent(self, location: str, payload: bytes) -> None:
        """See `ObjectStore.put_if_absent`. Stands on If-None-Match, which AWS has since 2024 and SeaweedFS honours."""
        bucket, key = _split(location)

        def put() -> None:
            try:
                self.client.put_object(
                    Bucket=bucket, Key=key, Body=payload, IfNoneMatch="*", ChecksumCRC32=crc32_of(payload)
                )
            except ClientError as error:
                if _code(error) in _TAKEN:
                    raise AlreadyExistsError(f"s3://{location} exists already") from None
                if _code(error) in _RACE:
                    raise _ConditionalRaceError from None
                raise

        with _translated("write", location):
            _patiently(put, _ConditionalRaceError)

    def list(self, prefix: str) -> Iterator[tuple[str, int, str]]:
        """See `ObjectStore.list`."""
        bucket, key_prefix = _split(prefix, key_required=False)
        with _translated("list", prefix):
            pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=key_prefix)
            for page in pages:
                for row in page.get("Contents", ()):
                    yield f"{bucket}/{row['Key']}", row["Size"], row.get("ETag", "").strip('"')

    def delete(self, location: str) -> None:
        """See `ObjectStore.delete`."""
        bucket, key = _split(location)
        with _translated("delete", location):
            self.client.delete_object(Bucket=bucket, Key=key)

    def _read(self, location: str, condition: dict[str, str]) -> bytes:
        bucket, key = _split(location)

        def fetch() -> bytes:
            body = self.client.get_object(Bucket=bucket, Key=key, **condition)["Body"]  # type: ignore[arg-type]
            try:
                return body.read()
            except (BotoCoreError, OSError) as error:
                raise _StreamBrokenError(type(error).__name__) from None

        with _translated("read", location):
            try:
                return _patiently(fetch, _StreamBrokenError)
            except ClientError as error:
                # A range that begins at or after the object's end holds no byte, as in a file.
                if _code(error) in _PAST_THE_END:
                    return b""
                if _code(error) in _TAKEN:
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
            if idle >= STREAM_ATTEMPTS:
                raise _StreamBrokenError(f"{offset} of {total} bytes arrived")
            time.sleep(0.1 * 2**idle)

    def _upload_parts(self, bucket: str, key: str, first: bytes, rest: Iterator[bytes], digest: StreamDigest) -> str:
        created = self.client.create_multipart_upload(
            Bucket=bucket, Key=key, ChecksumAlgorithm="CRC32", ChecksumType="FULL_OBJECT"
        )
        upload = created["UploadId"]

        def send(number: int, body: bytes) -> dict[str, Any]:
            checksum = crc32_of(body)
            answer = self.client.upload_part(
                Bucket=bucket, Key=key, UploadId=upload, PartNumber=number, Body=body, ChecksumCRC32=checksum
            )
            return {"PartNumber": number, "ETag": answer["ETag"], "ChecksumCRC32": checksum}

        try:
            with ThreadPoolExecutor(PARTS_IN_FLIGHT, thread_name_prefix="s3-part") as pool:
                pending: deque[Future[dict[str, Any]]] = deque([pool.submit(send, 1, first)])
                done: list[dict[str, Any]] = []
                for number, body in enumerate(rest, start=2):
                    digest.update(body)
                    # Bounds the memory: so many parts are held, however large the file is.
                    if len(pending) >= PARTS_IN_FLIGHT:
                        done.append(pending.popleft().result())
                    pending.append(pool.submit(send, number, body))
                done += [future.result() for future in pending]
            answer = self.client.complete_multipart_upload(
                Bucket=bucket,
                Key=key,
                UploadId=upload,
                MultipartUpload={"Parts": done},  # type: ignore[typeddict-item]
                ChecksumType="FULL_OBJECT",
                ChecksumCRC32=digest.crc32,
            )
        except BaseException:
            # Parts of an upload that is neither completed nor aborted are stored, and billed, for ever.
            with suppress(ClientError, BotoCoreError):
                self.client.abort_multipart_upload(Bucket=bucket, Key=key, UploadId=upload)
            raise
        return answer["ETag"]


def _client(options: S3Options) -> "S3Client":
    # Newer SDKs add checksums of their own, in a form that several S3-compatible stores refuse.
    checksums: Literal["when_supported", "when_required"]
    checksums = "when_supported" if options.endpoint_url is None else "when_required"
    config = Config(
        connect_timeout=5,
        read_timeout=60,
        retries={"mode": "standard", "total_max_attempts": 6},
        max_pool_connections=32,
        tcp_keepalive=True,
        s3={"addressing_style": "path" if options.path_style else "auto"},
        request_checksum_calculation=checksums,
        response_checksum_validation=checksums,
    )
    # A session of its own: making clients from one shared session is not thread-safe.
    return boto3.session.Session().client(
        "s3", endpoint_url=options.endpoint_url, region_name=options.region, config=config
    )


def _patiently[T](action: Callable[[], T], on: type[Exception]) -> T:
    retrying = Retrying(
        retry=retry_if_exception_type(on),
        stop=stop_after_attempt(STREAM_ATTEMPTS),
        wait=wait_random_exponential(multiplier=0.1, max=5),
        reraise=True,
    )
    return retrying(action)


def _split(location: str, *, key_required: bool = True) -> tuple[str, str]:
    bucket, _, key = location.partition("/")
    if not bucket or (key_required and not key):
        raise InvalidLocationError(f"s3://{location} names no object; give s3://bucket/key")
    if (size := len(key.encode())) > LONGEST_KEY:
        raise InvalidLocationError(f"s3://{location[:100]}... has a key of {size} bytes; the limit is {LONGEST_KEY}")
    return bucket, key


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", "Unknown"))


@contextmanager
def _translated(operation: str, location: str) -> Iterator[None]:
    """Turn the SDK's errors into ours, and leave their texts behind: see errors.py."""
    what = f"cannot {operation} s3://{location}"
    try:
        yield
    except StoreError:
        raise
    except ClientError as error:
        raise _from_answer(what, error) from None
    except (NoCredentialsError, PartialCredentialsError) as error:
        raise StoreDeniedError(
            f"{what}: {type(error).__name__}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or mount credentials"
        ) from None
    except ParamValidationError:
        raise InvalidLocationError(f"{what}: this is no name that S3 knows") from None
    except _ConditionalRaceError:
        raise StoreUnavailableError(f"{what}: conditional writes kept colliding, {STREAM_ATTEMPTS} times") from None
    except _StreamBrokenError as error:
        raise StoreUnavailableError(f"{what}: the answer kept breaking off ({error})") from None
    except BotoCoreError as error:
        raise StoreUnavailableError(f"{what}: {type(error).__name__}{_at(error)}, in spite of retries") from None


def _at(error: BotoCoreError) -> str:
    """The endpoint's host, where the error knows it: of the URL that it quotes nothing else is fit for a message."""
    host = urlsplit(str(error.kwargs.get("endpoint_url") or "")).netloc.rpartition("@")[2]
    return f" at {host}" if host else ""


def _from_answer(what: str, error: ClientError) -> StoreError:
    code = _code(error)
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    text = f"{what}: the store answered {code} (HTTP {status})"
    if code in _NOT_FOUND:
        return ObjectNotFoundError(text)
    if code in _DENIED or status in {401, 403}:
        return StoreDeniedError(f"{text}; check the credentials and the bucket's policy")
    return StoreUnavailableError(text)
