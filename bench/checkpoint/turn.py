"""One turn of one contender, in a process of its own: one save, one load, what they took, and a comparison of bytes.

`python -m bench.checkpoint.turn REQUEST`, in either environment: REQUEST is a `Request` as JSON.
"""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from bench.checkpoint import memory
from bench.checkpoint.contender import Contender, Task, make
from bench.checkpoint.workload import total

PACKAGES = ("torch", "boto3", "botocore", "s3fs", "s3torchconnector")


@dataclass(frozen=True)
class Request:
    """What a turn's process is asked for; paths as text."""

    contender: str
    threads: int
    shards: str
    small_shards: str
    endpoint: str
    bucket: str
    scratch: str
    result: str
    """File for a `Turn` as JSON."""

    def task(self, prefix: str, shards: str) -> Task:
        """Those shards below a prefix, with a scratch folder of their own."""
        scratch = Path(self.scratch) / prefix
        scratch.mkdir()
        return Task(Path(shards), self.endpoint, self.bucket, prefix, scratch)


@dataclass(frozen=True)
class Turn:
    """What one turn took: seconds of the clock and of processors (children's included), bytes of memory."""

    contender: str
    bytes: int
    blocked_seconds: float
    """Until training could have gone on."""
    save_seconds: float
    """Until all was stored."""
    load_seconds: float
    save_cpu_seconds: float
    load_cpu_seconds: float
    save_memory: memory.Peak
    load_memory: memory.Peak
    versions: dict[str, str]

    @classmethod
    def parse(cls, text: str) -> "Turn":
        """From a result file."""
        facts: dict[str, Any] = json.loads(text)
        peaks = {name: memory.Peak(**facts[name]) for name in ("save_memory", "load_memory")}
        return cls(**(facts | peaks))


def take(request: Request) -> Turn:
    """Warm up, save, load, compare."""
    contender = make(request.contender, request.threads)
    try:
        _warm_up(contender, request)
        contender.prepare(request.task("run/", request.shards))
        with memory.Watch(contender.processes) as save_memory:
            cpu, begun = _cpu_seconds(), time.perf_counter()
            wait = contender.save()
            blocked = time.perf_counter() - begun
            wait()
            saved, save_cpu = time.perf_counter() - begun, _cpu_seconds() - cpu
        with memory.Watch(contender.processes) as load_memory:
            cpu, begun = _cpu_seconds(), time.perf_counter()
            contender.load()
            loaded, load_cpu = time.perf_counter() - begun, _cpu_seconds() - cpu
        contender.check()
    finally:
        contender.close()
    return Turn(
        contender=request.contender,
        bytes=total(Path(request.shards)),
        blocked_seconds=blocked,
        save_seconds=saved,
        load_seconds=loaded,
        save_cpu_seconds=save_cpu,
        load_cpu_seconds=load_cpu,
        save_memory=save_memory.peak,
        load_memory=load_memory.peak,
        versions=_versions(),
    )


def _warm_up(contender: Contender, request: Request) -> None:
    contender.prepare(request.task("warm-up/", request.small_shards))
    contender.save()()
    contender.load()
    contender.check()


def _cpu_seconds() -> float:
    """Of this process, of children that live and of those that have ended."""
    here = psutil.Process()
    return sum(sum(times[:4]) for times in _each(lambda process: process.cpu_times(), here))


def _each[Found](look: Callable[[psutil.Process], Found], here: psutil.Process) -> list[Found]:
    found = [look(here)]
    for child in here.children(recursive=True):
        try:
            found.append(look(child))
        except psutil.NoSuchProcess:
            # It counts as one that has ended, in its parent.
            continue
    return found


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


if __name__ == "__main__":
    asked = Request(**json.loads(sys.argv[1]))
    Path(asked.result).write_text(json.dumps(asdict(take(asked))))
