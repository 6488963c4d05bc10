"""The object store that trainer and tools use: one class, which dispatches on the scheme of a URI.

`s3://bucket/key` goes through boto3; `file:///folder/name` and plain paths go to a folder with the same promises. A
path in a URI is taken literally, without percent-decoding.
"""

from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import NamedTuple, Protocol, Self

from internvl_trainer.contract.manifest import StoredObject
from internvl_trainer.storage.errors import InvalidLocationError
from internvl_trainer.storage.local import LocalFolder
from internvl_trainer.storage.s3 import S3
from internvl_trainer.storage.s3_client import S3Options
from internvl_trainer.storage.traits import Traits


class ObjectInfo(NamedTuple):
    """One row of a listing. `etag` has no quotes, and is empty for stores that have none."""

    uri: str
    size: int
    etag: str
    modified: datetime | None = None


class UnfinishedUpload(NamedTuple):
    """Parts of an object that nobody has completed; the store keeps them, and does not list them."""

    uri: str
    upload: str
    begun: datetime | None


class Backend(Protocol):
    """What a kind of store must offer; locations come without their scheme."""

    def read(self, location: str) -> bytes: ...
    def read_range(self, location: str, offset: int, length: int, etag: str) -> bytes: ...
    def download(self, location: str, path: Path) -> StoredObject: ...
    def upload(self, path: Path, location: str) -> StoredObject: ...
    def put_if_absent(self, location: str, payload: bytes) -> None: ...
    def put(self, location: str, payload: bytes) -> None: ...
    def list(self, prefix: str) -> Iterator[tuple[str, int, str, datetime | None]]: ...
    def stat(self, location: str) -> tuple[int, str, datetime | None]: ...
    def delete(self, location: str) -> None: ...
    def delete_all(self, locations: Iterable[str]) -> None: ...
    def unfinished_uploads(self, prefix: str) -> Iterator[tuple[str, str, datetime | None]]: ...
    def abort_upload(self, location: str, upload: str) -> None: ...
    def probe(self, prefix: str) -> Traits: ...
    def with_traits(self, traits: Traits) -> Self: ...


class ObjectStore:
    """Reads and writes whole objects.

    Safe to share between threads, to pickle and to use after a fork: the S3 client is made when a process first needs
    it. All methods raise `StoreError`s: `ObjectNotFoundError`, `StoreUnavailableError` after retries,
    `StoreDeniedError`, and `InvalidLocationError` for a URI of another scheme.
    """

    def __init__(self, options: S3Options) -> None:
        self._backends: dict[str, Backend] = {"s3": S3(options), "file": LocalFolder()}

    def read(self, uri: str) -> bytes:
        """All bytes of a small object."""
        backend, location, _ = self._resolve(uri)
        return backend.read(location)

    def read_range(self, uri: str, offset: int, length: int, *, etag: str = "") -> bytes:
        """`length` bytes of an object from `offset` on; fewer where the object ends before that.

        Args:
            etag: the version that is meant, as a listing gives it; empty: whichever is there.

        Raises:
            ObjectChangedError: the object has another ETag.
        """
        backend, location, _ = self._resolve(uri)
        return backend.read_range(location, offset, length, etag)

    def download(self, uri: str, path: Path) -> StoredObject:
        """Stream an object to `path`, which appears only when it is whole.

        Returns:
            what was received: size and digests of the bytes, the store's ETag. The caller compares; the bytes
            of a resumed download were digested in one pass as well.
        """
        backend, location, _ = self._resolve(uri)
        return backend.download(location, path)

    def upload(self, path: Path, uri: str) -> StoredObject:
        """Stream a file to an object, replacing what is there; digests are taken in the same pass.

        Returns:
            the object with `key` set to the last segment of `uri`.
        """
        backend, location, _ = self._resolve(uri)
        return backend.upload(path, location)

    def put_if_absent(self, uri: str, payload: bytes) -> None:
        """Write a small object if none is there, as one atomic step among all writers.

        Raises:
            AlreadyExistsError: somebody was first. A retry after a lost answer can run into one's own object, so
                compare the bytes before treating it as a conflict.
        """
        backend, location, _ = self._resolve(uri)
        backend.put_if_absent(location, payload)

    def put(self, uri: str, payload: bytes) -> None:
        """Write a small object, replacing what is there."""
        backend, location, _ = self._resolve(uri)
        backend.put(location, payload)

    def list(self, prefix_uri: str) -> Iterator[ObjectInfo]:
        """All objects whose URI begins with `prefix_uri`, in the order of their keys; none is no error."""
        backend, location, scheme = self._resolve(prefix_uri)
        for found, size, etag, modified in backend.list(location):
            yield ObjectInfo(scheme + found, size, etag, modified)

    def stat(self, uri: str) -> ObjectInfo:
        """Size, ETag and age of one object, without a listing."""
        backend, location, _ = self._resolve(uri)
        return ObjectInfo(uri, *backend.stat(location))

    def delete(self, uri: str) -> None:
        """Remove an object; removing one that is not there is no error."""
        backend, location, _ = self._resolve(uri)
        backend.delete(location)

    def delete_all(self, uris: Iterable[str]) -> None:
        """Remove many objects of one store with few requests; those that are not there are no error."""
        resolved = [self._resolve(uri)[:2] for uri in uris]
        for backend in {id(backend): backend for backend, _ in resolved}.values():
            backend.delete_all(location for other, location in resolved if other is backend)

    def unfinished_uploads(self, prefix_uri: str) -> Iterator[UnfinishedUpload]:
        """Uploads of objects below a prefix that were begun and neither completed nor given up."""
        backend, location, scheme = self._resolve(prefix_uri)
        for found, upload, begun in backend.unfinished_uploads(location):
            yield UnfinishedUpload(scheme + found, upload, begun)

    def abort_upload(self, unfinished: UnfinishedUpload) -> None:
        """Remove the parts of an unfinished upload; one that has ended meanwhile is no error."""
        backend, location, _ = self._resolve(unfinished.uri)
        backend.abort_upload(location, unfinished.upload)

    def probe(self, prefix_uri: str) -> Traits:
        """Find out what the store can do, by writing a small object below a prefix."""
        backend, location, _ = self._resolve(prefix_uri)
        return backend.probe(location)

    def with_traits(self, traits: Traits) -> Self:
        """The same store, used as it can be used."""
        other = type(self).__new__(type(self))
        other.__dict__ |= self.__dict__
        other._backends = {scheme: backend.with_traits(traits) for scheme, backend in self._backends.items()}
        return other

    def _resolve(self, uri: str) -> tuple[Backend, str, str]:
        scheme, separator, location = uri.partition("://")
        if not separator:
            return self._backends["file"], uri, ""
        if scheme not in self._backends:
            raise InvalidLocationError(f"{uri!r} has scheme {scheme!r}; use s3://, file:// or a path")
        return self._backends[scheme], location, f"{scheme}://"


def open_store(
    *,
    endpoint_url: str | None = None,
    region: str | None = None,
    path_style: bool = True,
    ca_file: str | None = None,
) -> ObjectStore:
    """An object store; nothing is contacted yet.

    Args:
        endpoint_url: of an S3-compatible store; None means AWS, or what the environment's AWS configuration says.
        region: None leaves it to the environment.
        path_style: address buckets by path, which most S3-compatible stores need.
        ca_file: certificates, in PEM, that sign the endpoint's; None means the environment's (AWS_CA_BUNDLE), else
            those of the public authorities.

    Raises:
        InvalidLocationError: the endpoint is no http(s) URL, or carries credentials, which belong in the standard
            credential chain (environment, shared files, web identity); there is no such CA file.
    """
    return ObjectStore(S3Options(endpoint_url=endpoint_url, region=region, path_style=path_style, ca_file=ca_file))
