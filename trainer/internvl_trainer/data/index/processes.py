"""Several processes that measure one annotation file at once."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from itertools import starmap
from types import TracebackType
from typing import Any, ClassVar

from internvl_trainer.contract.exit_codes import ExitCode
from internvl_trainer.data.index import chunks
from internvl_trainer.data.index.lines import AnnotationFile
from internvl_trainer.data.index.part import MeasuredPart, Measuring, Part, PartMeasurer
from internvl_trainer.data.sources import Source
from internvl_trainer.processes.pool import WorkerPool

PART = 4 * 1024 * 1024
"""Bytes of an annotation file that are measured at once: a second or two of work. A smaller file needs no process."""

PARTS_AHEAD = 2
"""Parts under way for each process, which bounds what is held in memory."""


class MeasuringProcessDiedError(Exception):
    """A process that measured samples was killed."""

    exit_code: ClassVar[ExitCode] = ExitCode.PEER_LOST


class Measurer:
    """Measures annotation files. A context manager: its processes start when they are needed, and end with it.

    Args:
        measuring: by what samples are measured.
        processes: how many measure at once. With one, or for a file of one part, this process does it.
        part: bytes of a part.
    """

    def __init__(self, measuring: Measuring, *, processes: int, part: int = PART) -> None:
        self._measuring = measuring
        self._processes = processes
        self._part = part
        self._pool: WorkerPool | None = None
        self._here: PartMeasurer | None = None

    def __enter__(self) -> "Measurer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.__exit__(kind, error, traceback)
        if self._here is not None:
            self._here.close()

    def measure(self, source: Source, annotation: AnnotationFile) -> Iterator[MeasuredPart]:
        """The samples of a data set, in the file's order, part by part.

        Raises:
            MeasuringProcessDiedError: a process was killed.
            DataError, StoreError: the file was changed meanwhile, or the store did not answer.
        """
        parts = [Part(source, annotation, *limits) for limits in chunks.parts(annotation.size, self._part)]
        if self._processes == 1 or len(parts) <= 1:
            self._here = self._here or PartMeasurer(self._measuring)
            yield from starmap(self._here.measure, _numbered(parts, map(Part.count_lines, parts)))
            return
        try:
            # Lines are numbered before they are measured, since a sample's name and its draws may need the number.
            counts = self._in_order(Part.count_lines, ((part,) for part in parts))
            yield from self._in_order(_measure, _numbered(parts, counts))
        except BrokenProcessPool as error:
            raise MeasuringProcessDiedError(
                f"a process that measured the samples of {annotation.name} was killed, as a rule for want of memory; "
                "give the job more memory, or fewer CPUs"
            ) from error

    def _in_order[Result](
        self, function: Callable[..., Result], arguments: Iterable[tuple[Any, ...]]
    ) -> Iterator[Result]:
        """What `function` gives for each of the arguments; other processes work some of them out ahead."""
        pool = self._started()
        under_way: deque[Future[Result]] = deque()
        for each in arguments:
            under_way.append(pool.submit(function, *each))
            if len(under_way) == self._processes * PARTS_AHEAD:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()

    def _started(self) -> WorkerPool:
        # Spawned: a fork would copy locks that a trainer's threads hold, and its CUDA context, which cannot be copied.
        self._pool = self._pool or WorkerPool(self._processes, start="spawn", begin=_begin, given=(self._measuring,))
        return self._pool


def _numbered(parts: Iterable[Part], counts: Iterable[int]) -> Iterator[tuple[Part, int]]:
    """Each part with the 1-based number of its first line."""
    number = 1
    for part, count in zip(parts, counts, strict=True):
        yield part, number
        number += count


class _Process:
    """What a process of the pool has for its whole life."""

    measuring: ClassVar[Measuring]
    measurer: ClassVar[PartMeasurer | None] = None


def _begin(measuring: Measuring) -> None:
    _Process.measuring = measuring


def _measure(part: Part, first_line: int) -> MeasuredPart:
    # Not made by the initializer, whose errors a pool does not pass on.
    _Process.measurer = _Process.measurer or PartMeasurer(_Process.measuring)
    return _Process.measurer.measure(part, first_line)
