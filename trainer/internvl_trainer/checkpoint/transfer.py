"""Between scratch and object store: many files and blocks at once, verified on the way. Torch-free.

Small transfers run in threads. Large ones run in processes, since one interpreter cannot hash and move bytes as fast as
a node's network does, and training, in another one, is not to wait for its lock.
"""

import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_EXCEPTION, Executor, Future, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from itertools import batched
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from internvl_trainer.checkpoint.errors import InvalidCheckpointError, TransferProcessDiedError
from internvl_trainer.checkpoint.moving import STREAMS, Fetch, Mover, Process
from internvl_trainer.checkpoint.ranges import Block, Range, blocks_of, blocks_with
from internvl_trainer.contract import gate, keys
from internvl_trainer.contract.manifest import Manifest, StoredObject
from internvl_trainer.processes.pool import WorkerPool
from internvl_trainer.processes.processors import usable_processors
from internvl_trainer.storage import ObjectStore

LARGE_UPLOAD = 64 * 1024 * 1024
"""Bytes from which on an upload is a matter for processes: beside it, training needs its interpreter for itself."""

LARGE_DOWNLOAD = 4 * 1024 * 1024 * 1024
"""Bytes from which on a download is worth the start of processes, which take a second; meanwhile nobody trains."""

THREADS = 4
FEWEST_PROCESSES, MOST_PROCESSES = 2, 8

Told = Callable[[int], None]
"""Is told how many bytes more have been transferred."""


def _nobody(size: int) -> None:
    """Told of bytes, does nothing."""


class Wanted(NamedTuple):
    """An object of a checkpoint and which of its blocks are to be fetched."""

    stored: StoredObject
    blocks: tuple[Block, ...]

    @classmethod
    def whole(cls, stored: StoredObject) -> Self:
        """All blocks."""
        return cls(stored, tuple(blocks_of(stored)))

    @classmethod
    def part(cls, stored: StoredObject, ranges: Iterable[Range]) -> Self:
        """The blocks that hold these ranges."""
        return cls(stored, tuple(blocks_with(stored, ranges)))

    @property
    def size(self) -> int:
        """Bytes to fetch."""
        return sum(block.length for block in self.blocks)


class Transfers:
    """Uploads and downloads of one node; a context manager. Thread-safe.

    Args:
        store: where to and from.
        patience: seconds for which all uploads of a call are tried again while the store does not answer.
    """

    def __init__(self, store: ObjectStore, *, patience: float = 0.0) -> None:
        self._mover = Mover(store)
        self._patience = patience
        self._exit = ExitStack()
        self._lock = threading.Lock()
        self._threads: Executor | None = None
        self._processes: Executor | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._exit.__exit__(kind, error, trace)

    def abandon(self) -> None:
        """Give up what is under way, and wait for nothing."""
        for executor in (self._threads, self._processes):
            if executor is not None:
                executor.shutdown(wait=False, cancel_futures=True)

    def upload(self, files: Mapping[str, Path], prefix: str, told: Told = _nobody) -> list[StoredObject]:
        """Upload files to keys below `prefix`, which ends with a slash; in the order of keys.

        Raises:
            StoreError: the first one of any file; what has not begun then is left.
        """
        sizes = {key: path.stat().st_size for key, path in files.items()}
        total = sum(sizes.values())
        in_processes = total >= LARGE_UPLOAD
        executor = self._executor(in_processes=in_processes)
        upload = Process.upload if in_processes else self._mover.upload
        deadline = time.monotonic() + self._patience
        with self._death_told():
            # The largest first: what is left at the end is short.
            futures = {
                key: _reporting(executor.submit(upload, files[key], prefix + key, deadline), sizes[key], told)
                for key in sorted(files, key=lambda key: sizes[key], reverse=True)
            }
            _ended(futures.values())
            return [futures[key].result().model_copy(update={"key": key}) for key in sorted(files)]

    def download(self, manifest_uri: str, wanted: Collection[Wanted], folder: Path, told: Told = _nobody) -> None:
        """Fetch blocks of a checkpoint's objects into files of `folder`, each compared with its SHA-256.

        Files have their whole length at once; what was not asked for is a hole.

        Raises:
            InvalidCheckpointError: lists every object that is missing or has other bytes than its writer hashed.
            StoreError: the store did not answer.
        """
        for each in wanted:
            if gate.is_safe_key(each.stored.key):
                _make_room(folder / each.stored.key, each.stored.size)
        problems = self._fetch(manifest_uri, wanted, folder, told)
        if problems:
            raise InvalidCheckpointError.of(manifest_uri, problems)

    def check(self, manifest_uri: str, wanted: Collection[Wanted], told: Told = _nobody) -> list[gate.Problem]:
        """Fetch blocks, compare them with their SHA-256 and keep nothing; all that is wrong.

        Raises:
            StoreError: the store did not answer.
        """
        return self._fetch(manifest_uri, wanted, None, told)

    def _fetch(
        self, manifest_uri: str, wanted: Collection[Wanted], folder: Path | None, told: Told
    ) -> list[gate.Problem]:
        prefix = keys.folder_of(manifest_uri)
        unsafe = [gate.UnsafeKey(each.stored.key) for each in wanted if not gate.is_safe_key(each.stored.key)]
        fetches = [
            Fetch(prefix + each.stored.key, each.stored, block, folder and folder / each.stored.key)
            for each in wanted
            if gate.is_safe_key(each.stored.key)
            for block in each.blocks
        ]
        in_processes = sum(fetch.block.length for fetch in fetches) >= LARGE_DOWNLOAD
        executor = self._executor(in_processes=in_processes)
        fetch_all = Process.fetch_all if in_processes else self._mover.fetch_all
        with self._death_told():
            futures = [
                _reporting(executor.submit(fetch_all, some), sum(fetch.block.length for fetch in some), told)
                for some in batched(fetches, STREAMS if in_processes else 1)
            ]
            _ended(futures)
            problems = [problem for future in futures for problem in future.result()]
        return [*unsafe, *dict.fromkeys(problems)]

    def _executor(self, *, in_processes: bool) -> Executor:
        with self._lock:
            if not in_processes:
                self._threads = self._threads or self._exit.enter_context(ThreadPoolExecutor(THREADS, "transfer"))
                return self._threads
            if self._processes is None:
                count = max(FEWEST_PROCESSES, min(MOST_PROCESSES, usable_processors() // 2))
                pool = WorkerPool(count, begin=Process.begin, given=(self._mover,))
                self._processes = self._exit.enter_context(pool)
            return self._processes

    @contextmanager
    def _death_told(self) -> Iterator[None]:
        try:
            yield
        except BrokenProcessPool as error:
            # What comes next gets new processes.
            self._processes = None
            raise TransferProcessDiedError(
                "a process that moves a checkpoint's bytes was killed, as a rule for want of memory; give the pod more "
                "(resources.memory)"
            ) from error


def read_object(store: ObjectStore, manifest_uri: str, manifest: Manifest, key: str) -> bytes:
    """The bytes of one small object of a checkpoint, verified.

    Raises:
        InvalidCheckpointError: the manifest does not name it, it is missing, or it has other bytes.
        StoreError: the store did not answer.
    """
    with tempfile.TemporaryDirectory() as folder, Transfers(store) as transfers:
        wanted = [Wanted.whole(stored) for stored in named(manifest, [key])]
        transfers.download(manifest_uri, wanted, Path(folder))
        return (Path(folder) / key).read_bytes()


def named(manifest: Manifest, keys: Collection[str]) -> list[StoredObject]:
    """The manifest's objects with these keys.

    Raises:
        InvalidCheckpointError: the manifest does not name one of them.
    """
    objects = {stored.key: stored for stored in manifest.objects}
    unknown = sorted(set(keys) - objects.keys())
    if unknown:
        raise InvalidCheckpointError(f"the manifest names no object {', '.join(unknown)}, which is needed")
    return [objects[key] for key in sorted(keys)]


def _make_room(path: Path, size: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as sink:
        sink.truncate(size)


def _reporting[T](future: "Future[T]", size: int, told: Told) -> "Future[T]":
    future.add_done_callback(lambda _: told(size))
    return future


def _ended(futures: Collection["Future[Any]"]) -> None:
    """Wait until nothing is under way any more; after the first error nothing more is begun."""
    wait(futures, return_when=FIRST_EXCEPTION)
    for future in futures:
        future.cancel()
    wait(futures)
    for future in futures:
        if not future.cancelled() and (error := future.exception()):
            raise error
