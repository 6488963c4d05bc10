"""A folder as an object store: for tests, for one machine, and for a file system that all nodes share."""

import errno
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from internvl_trainer.contract.manifest import StoredObject
from internvl_trainer.contract.object_digest import ObjectDigest
from internvl_trainer.storage.digest import StreamChecksum
from internvl_trainer.storage.errors import (
    AlreadyExistsError,
    InvalidLocationError,
    ObjectNotFoundError,
    StoreDeniedError,
    StoreError,
    StoreUnavailableError,
)
from internvl_trainer.storage.s3_upload import stored_object
from internvl_trainer.storage.traits import Traits
from internvl_trainer.storage.unfinished import PREFIX, unfinished

CHUNK = 4 * 1024 * 1024

_NAMES_NO_FILE = frozenset({errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG})


class LocalFolder:
    """Objects are files. Each appears under its name only when it is whole and on disk."""

    def read(self, location: str) -> bytes:
        """See `ObjectStore.read`."""
        with _translated("read", location):
            return _path(location).read_bytes()

    def read_range(self, location: str, offset: int, length: int, etag: str) -> bytes:
        """See `ObjectStore.read_range`; files have no ETag."""
        with _translated("read", location), _path(location).open("rb") as stream:
            stream.seek(offset)
            return stream.read(length)

    def download(self, location: str, path: Path) -> StoredObject:
        """See `ObjectStore.download`."""
        with _translated("read", location):
            return _copy(_path(location), path)

    def upload(self, path: Path, location: str) -> StoredObject:
        """See `ObjectStore.upload`."""
        with _translated("write", location):
            return _copy(path, _path(location))

    def put(self, location: str, payload: bytes) -> None:
        """See `ObjectStore.put`."""
        target = _path(location)
        with _translated("write", location), unfinished(target) as (temporary, sink):
            sink.write(payload)
            _flush(sink)
            temporary.replace(target)
            _flush_folder(target.parent)

    def put_if_absent(self, location: str, payload: bytes) -> None:
        """See `ObjectStore.put_if_absent`. A hard link publishes the finished file, and fails if the name is taken."""
        target = _path(location)
        with _translated("write", location), unfinished(target) as (temporary, sink):
            sink.write(payload)
            _flush(sink)
            try:
                os.link(temporary, target)
            except FileExistsError:
                raise AlreadyExistsError(f"{location} exists already") from None
            _flush_folder(target.parent)

    def list(self, prefix: str) -> Iterator[tuple[str, int, str, datetime | None]]:
        """See `ObjectStore.list`; there are no ETags."""
        yield from sorted(self._files(prefix, lambda name: not name.startswith(PREFIX)))

    def stat(self, location: str) -> tuple[int, str, datetime | None]:
        """See `ObjectStore.stat`; there are no ETags."""
        with _translated("read", location):
            return _state(_path(location))

    def delete(self, location: str) -> None:
        """See `ObjectStore.delete`."""
        with _translated("delete", location):
            _path(location).unlink(missing_ok=True)

    def delete_all(self, locations: Iterable[str]) -> None:
        """See `ObjectStore.delete_all`; where that empties its folder, or the one above, these go, too."""
        for location in locations:
            self.delete(location)
            # The first folder that is not empty ends it.
            with suppress(OSError):
                for folder in _path(location).parents[:2]:
                    folder.rmdir()

    def unfinished_uploads(self, prefix: str) -> Iterator[tuple[str, str, datetime | None]]:
        """See `ObjectStore.unfinished_uploads`: files whose writer has not come to their name."""
        for location, _, _, modified in self._files(prefix, lambda name: name.startswith(PREFIX)):
            yield location, location, modified

    def abort_upload(self, location: str, upload: str) -> None:
        """See `ObjectStore.abort_upload`."""
        self.delete(upload)

    def probe(self, prefix: str) -> Traits:
        """See `ObjectStore.probe`: a file system can link exclusively, and nobody compares what was written."""
        return Traits(conditional_writes=True, checksum=None)

    def with_traits(self, traits: Traits) -> "LocalFolder":
        """The same."""
        return self

    def _files(self, prefix: str, wanted: Callable[[str], bool]) -> Iterator[tuple[str, int, str, datetime | None]]:
        folder_text = prefix[: prefix.rfind("/") + 1]
        folder = Path(folder_text or ".")
        found: list[tuple[str, int, str, datetime | None]] = []
        with _translated("list", prefix):
            for parent, _, names in folder.walk():
                for name in filter(wanted, names):
                    # Spelled as the caller spells the prefix, so that a listed location begins with what was asked for.
                    location = folder_text + (parent / name).relative_to(folder).as_posix()
                    if location.startswith(prefix):
                        # A file deleted since the folder was read is not there, as in any store's listing.
                        with suppress(FileNotFoundError):
                            found.append((location, *_state(parent / name)))
        yield from found


def _path(location: str) -> Path:
    if not location or "\0" in location:
        raise InvalidLocationError(f"{location!r} names no file")
    return Path(location)


def _copy(source: Path, target: Path) -> StoredObject:
    checksum, digest = StreamChecksum("CRC64NVME"), ObjectDigest()
    with source.open("rb") as stream, unfinished(target) as (temporary, sink):
        while chunk := stream.read(CHUNK):
            checksum.update(chunk)
            digest.update(chunk)
            sink.write(chunk)
        _flush(sink)
        temporary.replace(target)
        _flush_folder(target.parent)
    return stored_object(target.name, checksum.size, checksum.algorithm, checksum.value, digest.blocks)


def _state(path: Path) -> tuple[int, str, datetime | None]:
    """Size, no ETag, and when it was modified."""
    found = path.stat()
    return found.st_size, "", datetime.fromtimestamp(found.st_mtime, UTC)


def _flush(sink: BinaryIO) -> None:
    sink.flush()
    os.fsync(sink.fileno())


def _flush_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _translated(operation: str, location: str) -> Iterator[None]:
    try:
        yield
    except StoreError:
        raise
    except FileNotFoundError as error:
        if operation == "write":
            raise StoreUnavailableError(f"cannot write {location}: {error.filename} has vanished") from error
        raise ObjectNotFoundError(f"cannot {operation} {location}: {error.filename} does not exist") from error
    except PermissionError as error:
        raise StoreDeniedError(f"cannot {operation} {location}: permission denied on {error.filename}") from error
    except OSError as error:
        if operation == "read" and error.errno in _NAMES_NO_FILE:
            raise ObjectNotFoundError(f"cannot read {location}: {error.strerror}") from error
        raise StoreUnavailableError(
            f"cannot {operation} {location}: {error.strerror or type(error).__name__}"
        ) from error
