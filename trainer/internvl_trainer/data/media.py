"""Remote objects as local files: a read-only cache that all processes of a node can share."""

import hashlib
from pathlib import Path

from internvl_trainer.data.errors import MetaError
from internvl_trainer.storage import ObjectNotFoundError, ObjectStore


class MediaCache:
    """Local copies of objects, each downloaded when it is first asked for.

    Copies appear under their final name only when they are whole, so processes that share the folder may race: the
    worst is that an object is downloaded twice. Objects with a file:// URI or a plain path are used where they are.
    """

    def __init__(self, store: ObjectStore, folder: Path) -> None:
        self._store = store
        self._folder = folder

    def media(self, uri: str) -> Path:
        """The local file of an image. An object must not change its content under the same URI.

        Raises:
            ObjectNotFoundError: there is no such object.
            StoreError: the store did not answer.
        """
        return _local(uri) or self._fetch(uri, uri)

    def annotation(self, uri: str) -> Path:
        """The local file of an annotation, which may be replaced between runs: its ETag is part of the copy's name.

        Raises:
            MetaError: there is no such object.
            StoreError: the store did not answer.
        """
        found = next((info for info in self._store.list(uri) if info.uri == uri), None)
        if found is None:
            raise MetaError(f"annotation {uri} does not exist; correct the meta JSON or upload the file")
        return _local(uri) or self._fetch(uri, f"{uri}#{found.etag}")

    def _fetch(self, uri: str, identity: str) -> Path:
        digest = hashlib.sha256(identity.encode()).hexdigest()
        path = self._folder / digest[:2] / digest
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._store.download(uri, path)
        return path


def read_text_object(store: ObjectStore, uri: str, what: str) -> bytes:
    """All bytes of a small object that the configuration names.

    Raises:
        MetaError: there is no such object.
    """
    try:
        return store.read(uri)
    except ObjectNotFoundError as error:
        raise MetaError(f"{what} {uri} does not exist; correct the URI or upload the file") from error


def _local(uri: str) -> Path | None:
    scheme, separator, path = uri.partition("://")
    if not separator:
        return Path(uri)
    return Path(path) if scheme == "file" else None
