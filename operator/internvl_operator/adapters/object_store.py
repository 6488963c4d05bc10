"""Object stores as the operator reads them: whole small objects, listings and digests; never a write.

boto3 blocks, so its calls run in a small pool of threads of their own: a slow store delays other stores' gates, but
neither the watch of the Kubernetes API nor the trainers' reports.
"""

import asyncio
import ssl
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self
from urllib.parse import urlsplit

import boto3
import botocore.config
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, NoCredentialsError, SSLError
from botocore.exceptions import ConnectionError as BotoConnectionError

from internvl_operator.adapters.certificates import CertificateFiles
from internvl_operator.config import GateSettings
from internvl_trainer.contract.object_digest import ObjectDigest

ACCESS_KEY = "AWS_ACCESS_KEY_ID"
SECRET_KEY = "AWS_SECRET_ACCESS_KEY"
SESSION_TOKEN = "AWS_SESSION_TOKEN"

CHUNK_BYTES = 1024 * 1024
_CACHED_CLIENTS = 64


class StoreError(Exception):
    """An object store gave no usable answer. Messages name the URI and never hold credentials."""


class ObjectNotFoundError(StoreError):
    """There is no such object."""

    def __init__(self, uri: str) -> None:
        super().__init__(f"{uri} does not exist")
        self.uri = uri


class StoreAccessError(StoreError):
    """The store refuses our credentials, or does not know the bucket: somebody has to change something."""


class StoreUnavailableError(StoreError):
    """The store did not answer, or answered with an error of its own: it may work later."""


class ObjectTooLargeError(StoreError):
    """The object is larger than anything that should lie at its key."""


@dataclass(frozen=True)
class Credentials:
    """An access key of a store; kept out of every printed form."""

    access_key_id: str = field(repr=False)
    secret_access_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)

    @classmethod
    def from_secret(cls, data: Mapping[str, str]) -> Self | None:
        """The credentials in a Secret's decoded data, None where the access key or its secret is missing."""
        if not data.get(ACCESS_KEY) or not data.get(SECRET_KEY):
            return None
        return cls(data[ACCESS_KEY], data[SECRET_KEY], data.get(SESSION_TOKEN) or None)


class StoreAddress(NamedTuple):
    """Which store, and as whom. Without credentials the operator's own chain (environment, role) applies.

    `ca_certificates` is PEM; without it the operator's own authorities are trusted.
    """

    endpoint_url: str | None = None
    region: str | None = None
    path_style: bool = True
    credentials: Credentials | None = None
    ca_certificates: str | None = None


class ObjectInfo(NamedTuple):
    """One object of a listing. `etag` has no quotes and is empty where the store has none."""

    size: int
    etag: str


class _Backend(Protocol):
    """What reading needs; all of it blocks."""

    def read(self, uri: str, limit: int) -> bytes: ...
    def list(self, prefix_uri: str) -> dict[str, ObjectInfo]: ...
    def stat(self, uri: str) -> ObjectInfo: ...
    def chunks(self, uri: str) -> Iterator[bytes]: ...


class ObjectStores:
    """All stores of all runs, by one pool of threads. Safe for concurrent use from one event loop."""

    def __init__(self, settings: GateSettings) -> None:
        self._settings = settings
        self._pool = ThreadPoolExecutor(settings.threads, thread_name_prefix="object-store")
        self._backends: OrderedDict[StoreAddress, _Backend] = OrderedDict()
        self._certificates = CertificateFiles()
        self._lock = threading.Lock()
        self._stopped = threading.Event()

    def close(self) -> None:
        """Give up what is under way; digests stop at their next chunk."""
        self._stopped.set()
        self._pool.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            self._certificates.close()

    async def read(self, address: StoreAddress, uri: str, *, limit: int) -> bytes:
        """The bytes of one object.

        Raises:
            ObjectNotFoundError: there is none.
            ObjectTooLargeError: it has more than `limit` bytes.
            StoreAccessError, StoreUnavailableError: the store gave no answer.
        """
        return await self._run(address, uri, lambda backend: backend.read(uri, limit))

    async def list(self, address: StoreAddress, prefix_uri: str) -> dict[str, ObjectInfo]:
        """All objects below a prefix that ends with a slash, by their keys relative to it; empty where there is none.

        Raises:
            StoreAccessError, StoreUnavailableError: the store gave no answer.
        """
        return await self._run(address, prefix_uri, lambda backend: backend.list(prefix_uri))

    async def stat(self, address: StoreAddress, uri: str) -> ObjectInfo:
        """One object as it is now; a listing can be behind.

        Raises:
            ObjectNotFoundError: there is none.
            StoreAccessError, StoreUnavailableError: the store gave no answer.
        """
        return await self._run(address, uri, lambda backend: backend.stat(uri))

    async def sha256(self, address: StoreAddress, uri: str, *, block_bytes: int = 0) -> str:
        """The hexadecimal digest of an object, read whole but never held whole.

        Args:
            block_bytes: of the object's record in its manifest.

        Raises:
            ObjectNotFoundError: there is none.
            StoreAccessError, StoreUnavailableError: the store gave no answer.
        """
        return await self._run(address, uri, lambda backend: self._digest(backend, uri, block_bytes))

    def _digest(self, backend: _Backend, uri: str, block_bytes: int) -> str:
        digest = ObjectDigest(block_bytes)
        for chunk in backend.chunks(uri):
            if self._stopped.is_set():
                raise StoreUnavailableError(f"{uri}: the operator is stopping")
            digest.update(chunk)
        return digest.sha256

    async def _run[Result](self, address: StoreAddress, uri: str, read: Callable[[_Backend], Result]) -> Result:
        def call() -> Result:
            with _typed_errors(uri):
                return read(self._backend(address, uri))

        return await asyncio.get_running_loop().run_in_executor(self._pool, call)

    def _backend(self, address: StoreAddress, uri: str) -> _Backend:
        if urlsplit(uri).scheme == "file":
            return _Folder()
        # Clients may be shared between threads, but sessions may not be made in several at once.
        with self._lock:
            backend = self._backends.pop(address, None) or self._connected(address)
            self._backends[address] = backend
            if len(self._backends) > _CACHED_CLIENTS:
                self._backends.popitem(last=False)
                # A request of the one that has gone may still look for its file, fails, and is made again.
                self._certificates.keep_only([each.ca_certificates for each in self._backends if each.ca_certificates])
        return backend

    def _connected(self, address: StoreAddress) -> _Backend:
        if self._stopped.is_set():
            raise StoreUnavailableError("the operator is stopping")
        authorities = self._certificates.path(address.ca_certificates) if address.ca_certificates else None
        return _S3(address, authorities, self._settings)


class _S3:
    def __init__(self, address: StoreAddress, authorities: Path | None, settings: GateSettings) -> None:
        credentials = address.credentials
        session = boto3.session.Session(
            aws_access_key_id=credentials.access_key_id if credentials else None,
            aws_secret_access_key=credentials.secret_access_key if credentials else None,
            aws_session_token=credentials.session_token if credentials else None,
            region_name=address.region,
        )
        self._client: Any = session.client(
            "s3",
            endpoint_url=address.endpoint_url,
            verify=str(authorities) if authorities else None,
            # Most compatible stores ignore the region, but boto3 cannot sign without one.
            region_name=address.region or session.region_name or "us-east-1",
            config=botocore.config.Config(
                connect_timeout=settings.connect_timeout_seconds,
                read_timeout=settings.read_timeout_seconds,
                max_pool_connections=settings.threads,
                retries={"mode": "standard", "total_max_attempts": 4},
                s3={"addressing_style": "path" if address.path_style else "auto"},
                # As the trainer does: several S3-compatible stores answer what newer SDKs add in ways of their own.
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )

    def read(self, uri: str, limit: int) -> bytes:
        bucket, key = _bucket_and_key(uri)
        answer = self._client.get_object(Bucket=bucket, Key=key)
        with closing(answer["Body"]) as body:
            if answer["ContentLength"] > limit:
                raise ObjectTooLargeError(f"{uri} has {answer['ContentLength']} bytes, at most {limit} are expected")
            return bytes(body.read())

    def list(self, prefix_uri: str) -> dict[str, ObjectInfo]:
        bucket, prefix = _bucket_and_key(prefix_uri)
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        return {
            entry["Key"].removeprefix(prefix): ObjectInfo(entry["Size"], entry.get("ETag", "").strip('"'))
            for page in pages
            for entry in page.get("Contents", ())
        }

    def stat(self, uri: str) -> ObjectInfo:
        bucket, key = _bucket_and_key(uri)
        answer = self._client.head_object(Bucket=bucket, Key=key)
        return ObjectInfo(answer["ContentLength"], answer.get("ETag", "").strip('"'))

    def chunks(self, uri: str) -> Iterator[bytes]:
        bucket, key = _bucket_and_key(uri)
        with closing(self._client.get_object(Bucket=bucket, Key=key)["Body"]) as body:
            yield from body.iter_chunks(CHUNK_BYTES)


class _Folder:
    """`file://` storage: a volume that the operator's pod mounts at the same path as the trainers'."""

    def read(self, uri: str, limit: int) -> bytes:
        path = _path(uri)
        if path.stat().st_size > limit:
            raise ObjectTooLargeError(f"{uri} has {path.stat().st_size} bytes, at most {limit} are expected")
        return path.read_bytes()

    def list(self, prefix_uri: str) -> dict[str, ObjectInfo]:
        root = _path(prefix_uri)
        files = (path for path in root.rglob("*") if path.is_file())
        return {path.relative_to(root).as_posix(): ObjectInfo(path.stat().st_size, "") for path in files}

    def stat(self, uri: str) -> ObjectInfo:
        return ObjectInfo(_path(uri).stat().st_size, "")

    def chunks(self, uri: str) -> Iterator[bytes]:
        with _path(uri).open("rb") as stream:
            while chunk := stream.read(CHUNK_BYTES):
                yield chunk


def _bucket_and_key(uri: str) -> tuple[str, str]:
    parts = urlsplit(uri)
    if parts.scheme != "s3" or not parts.netloc:
        raise StoreAccessError(f"{uri} is no s3://bucket/key or file:///path URI")
    # Not parts.path: a key may hold '?' and '#', which are nothing special to S3.
    return parts.netloc, uri.removeprefix(f"s3://{parts.netloc}").removeprefix("/")


def _path(uri: str) -> Path:
    return Path(uri.removeprefix("file://"))


@contextmanager
def _typed_errors(uri: str) -> Iterator[None]:
    try:
        yield
    except ClientError as error:
        raise _client_error(uri, error) from error
    except NoCredentialsError as error:
        raise StoreAccessError(
            f"{uri}: no credentials; name a Secret in storage.secretRef, or give the operator's pod a role"
        ) from error
    except SSLError as error:
        raise StoreAccessError(
            f"{uri}: the connection{_at(error)} cannot be trusted: {_why(error)}; name a ConfigMap with its "
            "authority's certificate in storage.caConfigMap, or correct storage.endpointUrl"
        ) from error
    except (HTTPClientError, BotoConnectionError) as error:
        # Not its text: that quotes the URL, and whatever a proxy's address carries.
        raise StoreUnavailableError(f"{uri}: {type(error).__name__}{_at(error)}") from error
    except BotoCoreError as error:
        raise StoreUnavailableError(f"{uri}: {type(error).__name__}: {error}") from error
    except FileNotFoundError:
        raise ObjectNotFoundError(uri) from None
    except PermissionError as error:
        raise StoreAccessError(f"{uri}: {error.strerror}") from error
    except OSError as error:
        raise StoreUnavailableError(f"{uri}: {type(error).__name__}: {error}") from error


def _at(error: BotoCoreError) -> str:
    host = urlsplit(str(error.kwargs.get("endpoint_url") or "")).netloc.rpartition("@")[2]
    return f" to {host}" if host else ""


def _why(error: SSLError) -> str:
    """What TLS itself says, which botocore keeps two layers below."""
    told = error.kwargs.get("error")
    cause = told.args[0] if isinstance(told, Exception) and told.args else told
    return cause.verify_message if isinstance(cause, ssl.SSLCertVerificationError) else "the TLS handshake failed"


def _client_error(uri: str, error: ClientError) -> StoreError:
    code = str(error.response.get("Error", {}).get("Code", ""))
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if code == "NoSuchBucket":
        return StoreAccessError(f"{uri}: the store has no such bucket")
    if code in ("NoSuchKey", "404") or status == 404:
        return ObjectNotFoundError(uri)
    if 400 <= status < 500 and status not in (408, 429):
        return StoreAccessError(f"{uri}: the store answers {status} {code}")
    return StoreUnavailableError(f"{uri}: the store answers {status} {code}")
