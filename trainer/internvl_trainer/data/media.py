"""The bytes of media and of small configuration files, by URI."""

from pathlib import Path

from internvl_trainer.data.errors import MetaError
from internvl_trainer.storage import ObjectNotFoundError, ObjectStore

HEADER = 64 * 1024
"""Bytes in which nearly every image file states its size."""


_SHOWN = 200
"""Characters of a URI in a message: a record may hold a whole image where its path should be."""


def shown(uri: str) -> str:
    """A URI fit for a message."""
    return uri if len(uri) <= _SHOWN else f"{uri[:_SHOWN]}... ({len(uri)} characters)"


class MediaReader:
    """Reads images and videos where they are: nothing is kept, in memory or on disk.

    Safe to use from several threads, and to pickle.
    """

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def read(self, uri: str) -> bytes:
        """All bytes of an object.

        Raises:
            ObjectNotFoundError: there is no such object.
            StoreError: the store did not answer.
        """
        return self._store.read(uri)

    def read_header(self, uri: str) -> bytes:
        """The first HEADER bytes of an object, all of a smaller one; raises like `read`."""
        return self._store.read_range(uri, 0, HEADER)

    def read_at_most(self, uri: str, size: int) -> bytes | None:
        """All bytes of an object, None if it has more than `size`; raises like `read`."""
        payload = self._store.read_range(uri, 0, size + 1)
        return payload if len(payload) <= size else None

    def files_in(self, folder: str) -> list[str]:
        """URIs of the objects directly in a folder, whose URI ends with a slash; none is no error."""
        return [found.uri for found in self._store.list(folder) if "/" not in found.uri.removeprefix(folder)]

    @staticmethod
    def local(uri: str) -> Path | None:
        """Where an object is a file that can be read in place; None in a remote store."""
        scheme, separator, path = uri.partition("://")
        if not separator:
            return Path(uri)
        return Path(path) if scheme == "file" else None


def read_text_object(store: ObjectStore, uri: str, what: str) -> bytes:
    """All bytes of a small object that the configuration names.

    Raises:
        MetaError: there is no such object.
    """
    try:
        return store.read(uri)
    except ObjectNotFoundError as error:
        raise MetaError(f"{what} {uri} does not exist; correct the URI or upload the file") from error
