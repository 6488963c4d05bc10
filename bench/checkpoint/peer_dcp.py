"""torch's distributed checkpoint (DCP) straight to S3: by fsspec and s3fs, and by s3torchconnector.

One process without a process group, as many writer threads (and so files) as there are shards; everything else as
these libraries have it by default, but two things. FsspecWriter would call os.sync() after each file, which flushes
the disks of the machine and says nothing about S3: it is switched off. s3torchconnector, which takes no endpoint for
DCP, finds it in AWS_ENDPOINT_URL. Runs in the peers' own environment.
"""

import os
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import AsyncSaveResponse, async_save, save
from torch.distributed.checkpoint.storage import StorageReader, StorageWriter

from bench.checkpoint.contender import Task, kind_of, stored_at_once
from bench.checkpoint.workload import check_state_dict, state_dict

REGION = "us-east-1"

Storage = tuple[Callable[[str], StorageWriter], Callable[[str], StorageReader]]
"""Makers of a writer and of a reader for a URI, which DCP's users make for each checkpoint."""


class Dcp:
    """Tensors of memory to S3 and back into tensors that are there, as into a model's parameters."""

    def __init__(self, storage: Storage, *, asynchronous: bool) -> None:
        self._writer, self._reader = storage
        self._asynchronous = asynchronous
        self._task: Task | None = None
        self._state: dict[str, torch.Tensor] = {}
        self._loaded: dict[str, torch.Tensor] = {}

    def prepare(self, task: Task) -> None:
        """See `Contender.prepare`."""
        self._task = task
        self._state = state_dict(task.shards)
        # Filled, so that its pages are there before the clock runs.
        self._loaded = {name: torch.full_like(tensor, 1) for name, tensor in self._state.items()}

    def save(self) -> Callable[[], None]:
        """See `Contender.save`; asynchronous: the copy in memory, then a thread."""
        assert self._task is not None
        writer = self._writer(self._task.uri)
        if not self._asynchronous:
            save(self._state, storage_writer=writer)
            return stored_at_once
        stored = async_save(self._state, storage_writer=writer)

        def wait() -> None:
            (stored.upload_completion if isinstance(stored, AsyncSaveResponse) else stored).result()

        return wait

    def load(self) -> None:
        """See `Contender.load`."""
        assert self._task is not None
        load(self._loaded, storage_reader=self._reader(self._task.uri))

    def check(self) -> None:
        """See `Contender.check`."""
        assert self._task is not None
        check_state_dict(self._loaded, self._task.shards)

    def processes(self) -> Sequence[int]:
        """None: threads do the work."""
        return ()

    def close(self) -> None:
        """See `Contender.close`."""


def contender(name: str, threads: int) -> Dcp:
    """By its name in KINDS."""
    # That there is no process group, and that storages are typed in an old way.
    warnings.filterwarnings("ignore", module="torch")
    storage = _fsspec(threads) if "fsspec" in name else _s3torchconnector(threads)
    return Dcp(storage, asynchronous=kind_of(name).asynchronous)


def _fsspec(threads: int) -> Storage:
    from torch.distributed.checkpoint._fsspec_filesystem import FsspecReader, FsspecWriter

    options: dict[str, Any] = {"endpoint_url": os.environ["AWS_ENDPOINT_URL"], "client_kwargs": {"region_name": REGION}}
    return (
        lambda uri: FsspecWriter(uri, thread_count=threads, sync_files=False, **options),
        lambda uri: FsspecReader(uri, **options),
    )


def _s3torchconnector(threads: int) -> Storage:
    from s3torchconnector import S3ClientConfig
    from s3torchconnector.dcp import S3StorageReader, S3StorageWriter

    config = S3ClientConfig(force_path_style=True)
    return (
        lambda uri: S3StorageWriter(REGION, uri, s3client_config=config, thread_count=threads),
        lambda uri: S3StorageReader(REGION, uri, s3client_config=config),
    )
