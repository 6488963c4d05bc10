"""How far a check is: a bar on a terminal, a line now and then elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

LINE_SECONDS = 10.0
"""Between two lines of a log."""


class Seen(NamedTuple):
    """How far a check is."""

    bytes_done: int
    bytes: int
    """Of all annotation files: samples are not counted before they are read."""
    samples: int
    bad: int
    tiles: int


@contextmanager
def shown(console: Console, *, clock: Callable[[], float] = time.monotonic) -> Iterator[Callable[[Seen], None]]:
    """A function to be told of progress, which is shown on `console`: a bar where that is a terminal, else lines."""
    started = clock()
    if not console.is_terminal:
        yield _Lines(console, clock)
        return
    columns = (BarColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("starting workers", total=None)

        def show(seen: Seen) -> None:
            bar.update(task, total=seen.bytes, completed=seen.bytes_done, description=_said(seen, clock() - started))

        yield show


class _Lines:
    def __init__(self, console: Console, clock: Callable[[], float]) -> None:
        self._console = console
        self._clock = clock
        self._started = self._last = clock()

    def __call__(self, seen: Seen) -> None:
        now = self._clock()
        if now - self._last < LINE_SECONDS:
            return
        self._last = now
        seconds = now - self._started
        left = seconds * (seen.bytes - seen.bytes_done) / seen.bytes_done
        line = f"{seen.bytes_done / seen.bytes:.1%}  {_said(seen, seconds)}  {left:,.0f} s left"
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


def _said(seen: Seen, seconds: float) -> str:
    rate = f"  {seen.tiles / seconds:,.0f} tiles/s" if seen.tiles and seconds else ""
    return f"{seen.samples:,} samples  {seen.bad:,} bad{rate}"
