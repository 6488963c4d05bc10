"""How far the reading of data sets is: a bar on a terminal, a line now and then elsewhere."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich import filesize
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, Task, TextColumn, TimeRemainingColumn

from internvl_trainer.data.index import Progress as Reached

SECONDS_BETWEEN_LINES = 10.0


@contextmanager
def watching(console: Console, sources: Sequence[str]) -> Iterator[Callable[[Reached], None]]:
    """Show the progress of data sets that are read one after the other, by what is told to the yielded function.

    Args:
        console: where to show it: a bar where it is a terminal, else a line for a data set at most every 10 seconds,
            and one at its end.
        sources: names of all data sets, in the order in which they are read.
    """
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    bar = Progress(*columns, console=console, disable=not console.is_terminal)
    with bar:
        yield _Watcher(bar, sources).tell


class _Watcher:
    def __init__(self, bar: Progress, sources: Sequence[str]) -> None:
        self._bar = bar
        self._sources = list(sources)
        self._tasks: dict[str, Task] = {}
        self._begun = self._told = time.monotonic()

    def tell(self, reached: Reached) -> None:
        """What `find_or_build` calls after each part of a file."""
        task = self._tasks.get(reached.source) or self._begin(reached)
        now = time.monotonic()
        rate = f"{reached.samples / (now - self._begun):,.0f} samples/s"
        self._bar.update(task.id, completed=reached.bytes_done, rate=rate)
        if task.finished:
            self._begun = now
        if self._bar.disable and (task.finished or now - self._told > SECONDS_BETWEEN_LINES):
            self._told = now
            self._bar.console.print(_line(task), markup=False, highlight=False, soft_wrap=True)

    def _begin(self, reached: Reached) -> Task:
        position = f"{self._sources.index(reached.source) + 1} of {len(self._sources)}"
        number = self._bar.add_task(f"{reached.source} ({position})", total=reached.bytes, rate="")
        (task,) = (task for task in self._bar.tasks if task.id == number)
        return self._tasks.setdefault(reached.source, task)


def _line(task: Task) -> str:
    done = f"{filesize.decimal(int(task.completed))} of {filesize.decimal(int(task.total or 0))}"
    left = "" if task.time_remaining is None or task.finished else f", {task.time_remaining:,.0f} s left"
    return f"{task.description}: {done} ({task.percentage:.0f}%), {task.fields['rate']}{left}"
