"""The bytes of an annotation file, wherever it lies, and what tells one version of it from another."""

import hashlib
import os
import stat
from pathlib import Path
from typing import Protocol

from filelock import FileLock

from internvl_trainer.data.errors import DataError, MetaError
from internvl_trainer.storage import ObjectInfo, ObjectStore

COPY_LIMIT = 256 * 1024 * 1024
"""Bytes up to which a remote annotation file is copied to the node; of a larger one, ranges are read."""


class AnnotationChangedError(DataError):
    """An annotation file was changed while it was in use."""


class AnnotationFile(Protocol):
    """An annotation file that several processes read at once. It can be pickled."""

    @property
    def name(self) -> str:
        """Its URI or path, for messages."""

    @property
    def size(self) -> int:
        """Bytes."""

    @property
    def fingerprint(self) -> tuple[str, ...]:
        """Differs from that of any other content."""

    def read(self, offset: int, length: int) -> bytes:
        """`length` bytes from `offset` on.

        Raises:
            AnnotationChangedError, ObjectChangedError: the file is not the one that was opened.
            StoreError: the store did not answer.
        """


def open_annotation(uri: str, store: ObjectStore, cache: Path) -> AnnotationFile:
    """An annotation file by its URI or path.

    A local file is read where it is. An object is copied into `cache`, once for all processes of the node, or, where
    it is larger than COPY_LIMIT, read by ranges.

    Raises:
        MetaError: it does not exist.
        StoreError: the store did not answer.
    """
    scheme, separator, location = uri.rpartition("://")
    if not separator or scheme == "file":
        return LocalFile(Path(location))
    found = next((info for info in store.list(uri) if info.uri == uri), None)
    if found is None:
        raise _absent(uri)
    if found.size > COPY_LIMIT:
        return RemoteFile(store, found)
    return LocalFile(_copied(found, store, cache), name=uri, fingerprint=_fingerprint(found))


class LocalFile:
    """A file of this node."""

    def __init__(self, path: Path, *, name: str = "", fingerprint: tuple[str, ...] = ()) -> None:
        self.name = name or str(path)
        self._path = path
        try:
            found = path.stat()
        except (FileNotFoundError, NotADirectoryError) as error:
            raise _absent(str(path)) from error
        if not stat.S_ISREG(found.st_mode):
            raise MetaError(f"annotation {self.name} is no file; give a .jsonl file, and a folder as `root`")
        self._state = _state(found)
        self.size = self._state[0]
        self.fingerprint = fingerprint or ("file", str(path.absolute()), *map(str, self._state))

    def read(self, offset: int, length: int) -> bytes:
        """See `AnnotationFile.read`."""
        try:
            with self._path.open("rb", buffering=0) as file:
                payload = os.pread(file.fileno(), length, offset)
                unchanged = _state(os.fstat(file.fileno())) == self._state
        except FileNotFoundError:
            unchanged = False
        if not unchanged:
            raise AnnotationChangedError(
                f"annotation {self.name} was changed while it was in use; start again to use what it holds now"
            )
        return payload


class RemoteFile:
    """An object that is read by ranges, always of the version that was found when it was opened."""

    def __init__(self, store: ObjectStore, found: ObjectInfo) -> None:
        self._store, self._found = store, found
        self.name = found.uri
        self.size = found.size
        self.fingerprint = _fingerprint(found)

    def read(self, offset: int, length: int) -> bytes:
        """See `AnnotationFile.read`."""
        return self._store.read_range(self._found.uri, offset, length, etag=self._found.etag)


def _copied(found: ObjectInfo, store: ObjectStore, cache: Path) -> Path:
    name = hashlib.sha256(f"{found.uri}#{found.etag}".encode()).hexdigest()
    path = cache / "annotations" / f"{name}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        if not path.exists() or path.stat().st_size != found.size:
            received = store.download(found.uri, path)
            if received.etag != found.etag:
                path.unlink()
                raise AnnotationChangedError(
                    f"annotation {found.uri} was replaced while it was read; start again to use what is there now"
                )
    return path


def _fingerprint(found: ObjectInfo) -> tuple[str, ...]:
    return ("etag", found.etag, str(found.size))


def _absent(uri: str) -> MetaError:
    return MetaError(f"annotation {uri} does not exist; correct the meta JSON or upload the file")


def _state(found: os.stat_result) -> tuple[int, int]:
    return found.st_size, found.st_mtime_ns
