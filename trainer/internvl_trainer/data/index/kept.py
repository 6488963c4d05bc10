"""The folder that keeps indexes for all nodes and all runs: objects under names that say what is in them.

<folder>/<digest>.json                 the header: what makes an index exist, written last, and only once
<folder>/<digest>-<sha256>.rows        its rows, under their own digest, so that two builders cannot mix theirs
<folder>/<digest>-<sha256>.bad.jsonl   its bad samples, for people and for `internvl data check`
"""

import logging

from pydantic import ValidationError

from internvl_trainer.data.index.copy import NodeCopy
from internvl_trainer.data.index.header import IndexHeader
from internvl_trainer.storage import AlreadyExistsError, ObjectNotFoundError, ObjectStore

_log = logging.getLogger(__name__)


class KeptIndexes:
    """Indexes in one folder of an object store.

    Its methods raise StoreErrors, where the store does not answer or refuses.
    """

    def __init__(self, folder: str, store: ObjectStore) -> None:
        self._folder = folder.rstrip("/")
        self._store = store

    def uri(self, digest: str) -> str:
        """Where an index's header is."""
        return f"{self._folder}/{digest}.json"

    def header(self, digest: str) -> IndexHeader | None:
        """The header of an index; None where it is not kept. A damaged one is removed, since it keeps nothing."""
        try:
            return IndexHeader.from_bytes(self._store.read(self.uri(digest)))
        except ObjectNotFoundError:
            return None
        except ValidationError:
            self.forget(digest)
            return None

    def fetch(self, header: IndexHeader, copy: NodeCopy) -> bool:
        """Copy an index to the node; False where its objects are missing, or are not what the header says."""
        rows, bad_samples = copy.unfinished()
        try:
            self._store.download(self._rows_uri(header), rows)
            self._store.download(self._bad_uri(header), bad_samples)
        except ObjectNotFoundError:
            return False
        return copy.finish(header)

    def keep(self, header: IndexHeader, copy: NodeCopy) -> IndexHeader:
        """Keep an index that a node has built.

        Returns:
            the header that is kept: another builder's, where that one was first.
        """
        self._store.upload(copy.rows, self._rows_uri(header))
        self._store.upload(copy.bad_samples, self._bad_uri(header))
        while True:
            try:
                self._store.put_if_absent(self.uri(header.digest), header.to_bytes())
            except AlreadyExistsError:
                if other := self.header(header.digest):
                    return other
            else:
                return header

    def forget(self, digest: str) -> None:
        """Remove the header of a damaged index, so that it can be kept anew."""
        _log.warning("the index %s is damaged, and is built anew", self.uri(digest))
        self._store.delete(self.uri(digest))

    def _rows_uri(self, header: IndexHeader) -> str:
        return f"{self._folder}/{header.digest}-{header.rows.sha256[:16]}.rows"

    def _bad_uri(self, header: IndexHeader) -> str:
        return f"{self._folder}/{header.digest}-{header.bad_samples.sha256[:16]}.bad.jsonl"
