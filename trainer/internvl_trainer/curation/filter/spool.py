"""What the rules found in one data set, on disk: only flagged lines, in the order of the file."""

import json
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from internvl_trainer.curation.filter.errors import WorkerLostError
from internvl_trainer.curation.filter.examine import Flag, examine
from internvl_trainer.curation.filter.lines import Line, Range, lines, ranges
from internvl_trainer.curation.filter.policy import Action, Policy
from internvl_trainer.processes.pool import WorkerPool

AHEAD = 2
"""Ranges per process that are under way: bounds the memory, however large the file is."""


class Workers(NamedTuple):
    """Worker processes, and how many there are."""

    pool: Executor
    processes: int


class Examined(NamedTuple):
    """One range: how many lines it has, and the flags of those that have any, by line number within the range."""

    lines: int
    flagged: list[tuple[int, tuple[Flag, ...]]]


def examine_range(path: Path, part: Range, source: str, policy: Policy) -> Examined:
    """Judge every line of one range."""
    flagged = []
    number = 0
    for line in lines(path, part):
        number = line.number
        if not line.is_blank and (flags := examine(line.text, source, number, policy)):
            flagged.append((number, flags))
    return Examined(number, flagged)


@contextmanager
def processes(count: int) -> Iterator[Workers | None]:
    """So many worker processes; None where one is enough, which is this one."""
    if count == 1:
        yield None
        return
    # Spawned, not forked: a fork copies the threads' locks of a progress bar, which may be held.
    with WorkerPool(count, start="spawn") as pool:
        yield Workers(pool, count)


def write_spool(
    path: Path, source: str, policy: Policy, spool: Path, workers: Workers | None, told: Callable[[int], None]
) -> None:
    """Judge a whole file, and keep what was found in `spool`.

    Args:
        told: called with the bytes of each range that is done.

    Raises:
        WorkerLostError: a process died.
    """
    base = 0
    with spool.open("w", encoding="utf-8") as sink:
        for part, examined in _in_order(path, source, policy, workers):
            for number, flags in examined.flagged:
                sink.write(json.dumps([base + number, flags]) + "\n")
            base += examined.lines
            told(part.end - part.start)


def with_flags(path: Path, spool: Path) -> Iterator[tuple[Line, tuple[Flag, ...]]]:
    """Every line of a file with what the rules found in it; blank lines included."""
    with spool.open(encoding="utf-8") as stream:
        found = map(_read, stream)
        number, flags = next(found, (0, ()))
        for line in lines(path):
            if line.number == number:
                yield line, flags
                number, flags = next(found, (0, ()))
            else:
                yield line, ()


def _read(row: str) -> tuple[int, tuple[Flag, ...]]:
    number, flags = json.loads(row)
    return number, tuple(
        Flag(rule, value, limit, detail, Action(action)) for rule, value, limit, detail, action in flags
    )


def _in_order(path: Path, source: str, policy: Policy, workers: Workers | None) -> Iterator[tuple[Range, Examined]]:
    parts = ranges(path)
    if workers is None:
        yield from ((part, examine_range(path, part, source, policy)) for part in parts)
        return

    def start(some: Iterable[Range]) -> list[tuple[Range, Future[Examined]]]:
        return [(part, workers.pool.submit(examine_range, path, part, source, policy)) for part in some]

    try:
        pending = start(islice(parts, AHEAD * workers.processes))
        while pending:
            (part, future), *pending = pending
            yield part, future.result()
            pending += start(islice(parts, 1))
    except BrokenProcessPool as error:
        raise WorkerLostError(
            f"a process died while it read {path}, most likely for want of memory; use fewer --workers"
        ) from error
