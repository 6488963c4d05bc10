"""What a contender is, and which there are. Imported in both environments: the standard library alone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Protocol

MB = 10**6
MIB = 2**20


@dataclass(frozen=True)
class Task:
    """What is to be stored, and where."""

    shards: Path
    """Folder of the shard files, whose bytes are all that every contender stores."""
    endpoint: str
    bucket: str
    prefix: str
    """Begins every key; ends with a slash."""
    scratch: Path
    """An empty folder of the contender's own."""

    @property
    def uri(self) -> str:
        """Bucket and prefix, without a slash at the end."""
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")


class Contender(Protocol):
    """One way to store a checkpoint and to read it back; it lives in a process of its own, for one turn.

    Credentials and region are in the environment. `prepare`, `save` and `load` are called first for a small task, as
    a warm-up, then for the real one: clients, connections and helper processes should outlive the former.
    """

    def prepare(self, task: Task) -> None:
        """Whatever training has in memory before it saves, and has allocated before it loads. Not timed."""
        ...

    def save(self) -> Callable[[], None]:
        """Begin to store all bytes. Returns when training may go on; what it returns waits until all is stored."""
        ...

    def load(self) -> None:
        """Read everything back."""
        ...

    def check(self) -> None:
        """Compare what was loaded with the shard files. Raises AssertionError where they differ. Not timed."""
        ...

    def processes(self) -> Sequence[int]:
        """Ids of other processes that work for it now, whose memory is measured."""
        ...

    def close(self) -> None:
        """End helpers."""
        ...


@dataclass(frozen=True)
class Kind:
    """How a contender is found by its name; `module` has a function `contender(name, threads)` that makes it."""

    title: str
    module: str
    peers_environment: bool = False
    asynchronous: bool = False


KINDS = {
    "ours": Kind("ours", "ours"),
    "boto3": Kind("boto3 upload_file, download_file", "boto3_files"),
    "dcp-fsspec": Kind("DCP, FsspecWriter (s3fs)", "peer_dcp", True),
    "dcp-fsspec-async": Kind("DCP async_save, FsspecWriter", "peer_dcp", True, True),
    "dcp-s3tc": Kind("DCP, s3torchconnector", "peer_dcp", True),
    "dcp-s3tc-async": Kind("DCP async_save, s3torchconnector", "peer_dcp", True, True),
}
"""Names for --only. The server's ceiling comes on top, by contenders that are named raw:CLIENT:PARALLEL:MIB."""


def kind_of(name: str) -> Kind:
    """Any contender's kind, by its full name."""
    if name.startswith("raw:"):
        _, client, parallel, mib = name.split(":")
        return Kind(f"raw {client}, {parallel} at a time, blobs of {mib} MiB", "raw")
    return KINDS[name]


def make(name: str, threads: int) -> Contender:
    """A contender by its full name.

    Args:
        threads: how many files at once it should write, where that is for its user to say.
    """
    made: Contender = import_module(f"bench.checkpoint.{kind_of(name).module}").contender(name, threads)
    return made


def stored_at_once() -> None:
    """What a `save` returns that has stored everything already."""
