"""What the server can do: blobs, PUT and GET in parallel, with as little work for the client as there can be.

`http` sends prebuilt bytes to presigned URLs: no signature, no digest, no copy. `boto3` is put_object and get_object
without payload signing and checksums.
"""

import http.client
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

import boto3
from botocore.config import Config

from bench.checkpoint.contender import MIB, Task, stored_at_once
from bench.checkpoint.workload import files

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

HTTP, BOTO3 = "http", "boto3"


class Wire(Protocol):
    """A way to move one blob."""

    def aim(self, bucket: str, keys: Sequence[str]) -> None:
        """Learn where blobs lie; not timed."""
        ...

    def put(self, number: int, blob: memoryview) -> None:
        """Store the blob of this number."""
        ...

    def get(self, number: int, buffer: memoryview) -> None:
        """Fill the buffer with the blob of this number."""
        ...


class Http:
    """The standard library's HTTP client, one connection for each thread."""

    def __init__(self, client: "S3Client") -> None:
        self._client = client
        self._own = threading.local()
        self._puts: list[str] = []
        self._gets: list[str] = []

    def aim(self, bucket: str, keys: Sequence[str]) -> None:
        """See `Wire.aim`: signs all URLs."""
        self._puts, self._gets = [
            [
                self._client.generate_presigned_url(operation, Params={"Bucket": bucket, "Key": key}, ExpiresIn=7200)
                for key in keys
            ]
            for operation in ("put_object", "get_object")
        ]

    def put(self, number: int, blob: memoryview) -> None:
        """See `Wire.put`."""
        connection, target = self._connection(self._puts[number])
        connection.request("PUT", target, body=blob)
        answer = connection.getresponse()
        text = answer.read()
        assert answer.status == 200, f"PUT of blob {number}: HTTP {answer.status}: {text[:300]!r}"

    def get(self, number: int, buffer: memoryview) -> None:
        """See `Wire.get`."""
        connection, target = self._connection(self._gets[number])
        connection.request("GET", target)
        answer = connection.getresponse()
        filled = 0
        while filled < len(buffer) and (count := answer.readinto(buffer[filled:])):
            filled += count
        rest = answer.read()
        assert answer.status == 200, f"GET of blob {number}: HTTP {answer.status}"
        assert filled + len(rest) == len(buffer), f"blob {number} has {filled + len(rest)} bytes, not {len(buffer)}"

    def _connection(self, url: str) -> tuple[http.client.HTTPConnection, str]:
        parts = urlsplit(url)
        if not hasattr(self._own, "connection"):
            assert parts.hostname is not None
            self._own.connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=60)
        return self._own.connection, f"{parts.path}?{parts.query}"


class Boto3:
    """put_object and get_object of one shared client."""

    def __init__(self, client: "S3Client") -> None:
        self._client = client
        self._bucket = ""
        self._keys: Sequence[str] = ()

    def aim(self, bucket: str, keys: Sequence[str]) -> None:
        """See `Wire.aim`."""
        self._bucket, self._keys = bucket, keys

    def put(self, number: int, blob: memoryview) -> None:
        """See `Wire.put`."""
        self._client.put_object(Bucket=self._bucket, Key=self._keys[number], Body=blob.obj)  # type: ignore[arg-type]

    def get(self, number: int, buffer: memoryview) -> None:
        """See `Wire.get`."""
        body = self._client.get_object(Bucket=self._bucket, Key=self._keys[number])["Body"]
        filled = 0
        while filled < len(buffer) and (count := body.readinto(buffer[filled:])):  # type: ignore[arg-type]
            filled += count
        assert filled == len(buffer), f"GET of blob {number} ended after {filled} of {len(buffer)} bytes"


class Raw:
    """All blobs, so many at a time."""

    def __init__(self, client: str, parallel: int, blob_bytes: int) -> None:
        self._kind, self._blob_bytes, self._parallel = client, blob_bytes, parallel
        self._pool = ThreadPoolExecutor(parallel)
        self._wire: Wire | None = None
        self._blobs: list[memoryview] = []
        self._buffers: list[memoryview] = []

    def prepare(self, task: Task) -> None:
        """See `Contender.prepare`: cut the shards, and touch the memory for the answers."""
        data = b"".join(path.read_bytes() for path in files(task.shards))
        # Each blob is an object of its own, so that no client has to copy it out.
        cuts = range(0, len(data), self._blob_bytes)
        self._blobs = [memoryview(data[begin : begin + self._blob_bytes]) for begin in cuts]
        self._buffers = [memoryview(bytearray(b"\1") * len(blob)) for blob in self._blobs]
        if self._wire is None:
            client = _client(task.endpoint, self._parallel)
            self._wire = Http(client) if self._kind == HTTP else Boto3(client)
        self._wire.aim(task.bucket, [f"{task.prefix}{number:06d}" for number in range(len(self._blobs))])

    def save(self) -> Callable[[], None]:
        """See `Contender.save`."""
        assert self._wire is not None
        list(self._pool.map(self._wire.put, range(len(self._blobs)), self._blobs))
        return stored_at_once

    def load(self) -> None:
        """See `Contender.load`."""
        assert self._wire is not None
        list(self._pool.map(self._wire.get, range(len(self._buffers)), self._buffers))

    def check(self) -> None:
        """See `Contender.check`."""
        for number, (blob, buffer) in enumerate(zip(self._blobs, self._buffers, strict=True)):
            assert blob == buffer, f"blob {number} came back with other bytes"

    def processes(self) -> Sequence[int]:
        """None: threads do the work."""
        return ()

    def close(self) -> None:
        """See `Contender.close`."""
        self._pool.shutdown()


def contender(name: str, threads: int) -> Raw:
    """By a name raw:CLIENT:PARALLEL:MIB."""
    _, client, parallel, mib = name.split(":")
    return Raw(client, int(parallel), int(mib) * MIB)


def _client(endpoint: str, parallel: int) -> "S3Client":
    config = Config(
        signature_version="s3v4",
        max_pool_connections=parallel,
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        # Over plain HTTP boto3 would hash every body to sign it.
        s3={"addressing_style": "path", "payload_signing_enabled": False},
    )
    return boto3.session.Session().client("s3", endpoint_url=endpoint, config=config)
