"""Moving one file or some blocks between scratch and object store: what threads and processes of a transfer do."""

import hashlib
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar, NamedTuple

from tenacity import Retrying, retry_if_exception_type, wait_random_exponential

from internvl_trainer.checkpoint.ranges import Block
from internvl_trainer.contract import gate
from internvl_trainer.contract.manifest import StoredObject
from internvl_trainer.storage import ObjectChangedError, ObjectNotFoundError, ObjectStore, StoreUnavailableError

STREAMS = 4
"""Requests that one process has under way at once."""

READ_ATTEMPTS = 4
"""How often a block that arrived damaged is read: what the network did heals, what the store did does not."""


def patiently[T](action: Callable[[], T], deadline: float) -> T:
    """Try again, until a moment of the monotonic clock, where the store does not answer."""
    retrying = Retrying(
        retry=retry_if_exception_type(StoreUnavailableError),
        stop=lambda _: time.monotonic() >= deadline,
        wait=wait_random_exponential(multiplier=0.5, max=30),
        reraise=True,
    )
    return retrying(action)


class Fetch(NamedTuple):
    """A block that is to be fetched, and where to: to its place in a file, or nowhere, to be looked at only."""

    uri: str
    stored: StoredObject
    block: Block
    path: Path | None


@dataclass(frozen=True)
class Mover:
    """Moves bytes of one store.

    Attributes:
        store: opened.
    """

    store: ObjectStore

    def upload(self, path: Path, uri: str, deadline: float = 0.0) -> StoredObject:
        """Upload a file.

        Args:
            path: the file.
            uri: of the object.
            deadline: by the monotonic clock, which all processes of a machine share: until then it is tried again
                while the store does not answer.

        Raises:
            StoreError: it did not arrive, or not as it was sent.
        """
        return patiently(partial(self._upload_once, path, uri), deadline)

    def fetch_all(self, fetches: Sequence[Fetch]) -> list[gate.Problem]:
        """Fetch blocks, some at once; all that is wrong with them.

        Raises:
            StoreError: the store did not answer.
        """
        with ThreadPoolExecutor(min(STREAMS, len(fetches)), "block") as pool:
            return [problem for problem in pool.map(self.fetch, fetches) if problem is not None]

    def fetch(self, wanted: Fetch) -> gate.Problem | None:
        """Fetch one block; what is wrong with it, unless it is as it was hashed.

        An empty object is looked at all the same: it could be missing.
        """
        uri, stored, block, path = wanted
        for _ in range(READ_ATTEMPTS):
            try:
                payload = self.store.read_range(uri, block.offset, max(1, block.length), etag=stored.etag)
            except ObjectNotFoundError:
                return gate.MissingObject(stored.key, stored.size)
            except ObjectChangedError:
                return gate.ETagMismatch(stored.key, stored.etag, "another one")
            digest = hashlib.sha256(payload).hexdigest()
            if digest == block.sha256:
                if path is not None:
                    _put_in_place(payload, path, block.offset)
                return None
        if len(payload) != block.length:
            return gate.SizeMismatch(stored.key, stored.size, block.offset + len(payload))
        return gate.DigestMismatch(stored.key, block.sha256, digest)

    def _upload_once(self, path: Path, uri: str) -> StoredObject:
        """Upload a file and look at what has become of it: a store may take half a body for the whole of it."""
        sent = self.store.upload(path, uri)
        try:
            found = self.store.stat(uri)
        except ObjectNotFoundError as error:
            raise StoreUnavailableError(f"the store took {uri}, and does not have it") from error
        if (found.size, found.etag or sent.etag) != (sent.size, sent.etag):
            raise StoreUnavailableError(
                f"the store took {uri} with {sent.size} bytes and ETag {sent.etag}, and has {found.size} bytes and "
                f"ETag {found.etag}"
            )
        return sent


class Process:
    """What a process of a transfer has for its whole life: one mover, and with it one connection to the store."""

    _mover: ClassVar[Mover]

    @classmethod
    def begin(cls, mover: Mover) -> None:
        """Called once, before anything else."""
        cls._mover = mover

    @classmethod
    def upload(cls, path: Path, uri: str, deadline: float) -> StoredObject:
        """See `Mover.upload`."""
        return cls._mover.upload(path, uri, deadline)

    @classmethod
    def fetch_all(cls, fetches: Sequence[Fetch]) -> list[gate.Problem]:
        """See `Mover.fetch_all`."""
        return cls._mover.fetch_all(fetches)


def _put_in_place(payload: bytes, path: Path, offset: int) -> None:
    with path.open("r+b") as sink:
        sink.seek(offset)
        sink.write(payload)
