"""Where turns are taken: one S3 server for all, and for each turn a process and a bucket of its own."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import click
from botocore.config import Config

from bench.checkpoint.contender import MB, MIB, kind_of
from bench.checkpoint.turn import Request, Turn
from bench.checkpoint.workload import write_shards
from hack.cluster import object_store

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

REPOSITORY = Path(__file__).resolve().parents[2]
PLACE = REPOSITORY / ".state" / "bench"
"""On disk, and ignored by git; /tmp may be memory."""

PEERS_PYTHON = REPOSITORY / ".state" / "bench-peers" / "bin" / "python"
SMALL = 64 * MIB
"""Bytes of a warm-up, or fewer where the checkpoint has fewer: we start uploader processes from this size on."""

LIMIT = 1800
"""Seconds that a turn may take."""


@dataclass(frozen=True)
class Arena:
    """A running server and the shards that everybody stores."""

    folder: Path
    store: object_store.ObjectStore
    shards: int
    """How many shard files there are: that many files at once is what DCP is asked to write."""

    def take(self, contender: str, size: int) -> Turn:
        """One save and one load of `size` bytes by a contender, in a process of its own.

        Raises:
            click.ClickException: it failed; with the end of what it said.
        """
        shards, small = self._shards(size), self._shards(min(size, SMALL))
        with self._bucket() as bucket, tempfile.TemporaryDirectory(dir=self.folder, prefix="turn-") as scratch:
            result = Path(scratch) / "result.json"
            request = Request(
                contender=contender,
                threads=self.shards,
                shards=str(shards),
                small_shards=str(small),
                endpoint=self.store.endpoint,
                bucket=bucket,
                scratch=scratch,
                result=str(result),
            )
            self._run(request)
            return Turn.parse(result.read_text())

    def forget(self, size: int) -> None:
        """Delete the shard files of one size."""
        shutil.rmtree(self.folder / f"shards-{size}", ignore_errors=True)

    def _shards(self, size: int) -> Path:
        folder = self.folder / f"shards-{size}"
        if not folder.exists():
            write_shards(folder, size, self.shards)
            # Or the disk would be busy with them in somebody's turn.
            os.sync()
        return folder

    @contextlib.contextmanager
    def _bucket(self) -> Iterator[str]:
        """An empty bucket; with it go the volumes that hold its objects, and their space on disk."""
        name = f"turn-{os.urandom(6).hex()}"
        client = _client(self.store)
        client.create_bucket(Bucket=name)
        try:
            yield name
        finally:
            for page in client.get_paginator("list_objects_v2").paginate(Bucket=name):
                for row in page.get("Contents", ()):
                    client.delete_object(Bucket=name, Key=row["Key"])
            client.delete_bucket(Bucket=name)

    def _run(self, request: Request) -> None:
        python = PEERS_PYTHON if kind_of(request.contender).peers_environment else Path(sys.executable)
        command = [str(python), "-m", "bench.checkpoint.turn", json.dumps(asdict(request))]
        environment = {
            **os.environ,
            **self.store.environment(),
            # s3torchconnector and boto3 know this one; the store's own variable is newer.
            "AWS_ENDPOINT_URL": self.store.endpoint,
            # Nobody should look for a cloud around this machine.
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        ended = subprocess.run(
            command, cwd=REPOSITORY, env=environment, timeout=LIMIT, check=False, capture_output=True, text=True
        )
        if ended.returncode != 0:
            said = (ended.stderr + ended.stdout)[-4000:]
            raise click.ClickException(f"{request.contender} ended with {ended.returncode}:\n{said}")


@contextlib.contextmanager
def opened(shards: int, largest: int) -> Iterator[Arena]:
    """A server with its data below .state/bench, which is gone afterwards.

    Args:
        largest: bytes of the largest checkpoint; there must be room for its shards, the objects and a download.

    Raises:
        click.ClickException: there is no room on the disk.
    """
    PLACE.mkdir(parents=True, exist_ok=True)
    needed, free = 4 * largest + 2**31, shutil.disk_usage(PLACE).free
    if free < needed:
        raise click.ClickException(
            f"{PLACE} has {free / MB:,.0f} MB free; a checkpoint of {largest / MB:,.0f} MB needs {needed / MB:,.0f}: "
            "free some, or name a smaller size"
        )
    folder = Path(tempfile.mkdtemp(dir=PLACE, prefix="checkpoint-"))
    try:
        with object_store.running(folder / "server") as store:
            yield Arena(folder, store, shards)
    finally:
        shutil.rmtree(folder)


def make_peers_environment() -> None:
    """The packages of contenders that cannot live in .venv; seconds, or minutes for the first time.

    Raises:
        click.ClickException: it could not be made; its messages are on the terminal.
    """
    if subprocess.run([str(REPOSITORY / "hack" / "bench-peers.sh")], cwd=REPOSITORY, check=False).returncode != 0:
        raise click.ClickException("hack/bench-peers.sh failed; --only ours --only boto3 needs no peers")


def _client(store: object_store.ObjectStore) -> "S3Client":
    return boto3.session.Session().client(
        "s3",
        endpoint_url=store.endpoint,
        aws_access_key_id=store.access_key,
        aws_secret_access_key=store.secret_key,
        region_name=store.region,
        config=Config(s3={"addressing_style": "path"}),
    )
