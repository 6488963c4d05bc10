"""boto3 as its users use it: upload_file and download_file with the default TransferConfig, one file after another.

It begins and ends at files; a trainer that works like this is blocked for writing and reading these as well.
"""

from collections.abc import Callable, Sequence

import boto3
from botocore.config import Config

from bench.checkpoint.contender import Task, stored_at_once
from bench.checkpoint.workload import check_files, files


class Boto3Files:
    """One default client, which runs ten requests at a time for each file."""

    def __init__(self) -> None:
        self._client = boto3.client("s3", config=Config(s3={"addressing_style": "path"}))
        self._task: Task | None = None

    def prepare(self, task: Task) -> None:
        """See `Contender.prepare`."""
        self._task = task

    def save(self) -> Callable[[], None]:
        """See `Contender.save`."""
        assert self._task is not None
        for path in files(self._task.shards):
            self._client.upload_file(str(path), self._task.bucket, self._task.prefix + path.name)
        return stored_at_once

    def load(self) -> None:
        """See `Contender.load`."""
        assert self._task is not None
        for path in files(self._task.shards):
            target = self._task.scratch / path.name
            self._client.download_file(self._task.bucket, self._task.prefix + path.name, str(target))

    def check(self) -> None:
        """See `Contender.check`."""
        assert self._task is not None
        check_files(self._task.scratch, self._task.shards)

    def processes(self) -> Sequence[int]:
        """None: threads do the work."""
        return ()

    def close(self) -> None:
        """See `Contender.close`."""
        self._client.close()


def contender(name: str, threads: int) -> Boto3Files:
    """The only one of this module."""
    return Boto3Files()
