"""Timing contenders against each other: in turns, on the same packs, in one process."""

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch.profiler import ProfilerActivity, profile

from bench import devices
from bench.contenders import Contender
from internvl_trainer.data.pack import Pack

WARM_UP = 2
"""Steps of each contender before anything is timed: allocators and libraries settle, optimizers make their state."""


@dataclass
class Entry:
    """A contender and what was measured of it."""

    contender: Contender
    resident: int
    """Bytes that it holds between steps."""
    seconds: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    peak: int = 0
    """Most bytes during its steps: of the device, the other contenders' taken off; of the whole process on CPU."""

    @property
    def median(self) -> float:
        """Seconds of a step."""
        return statistics.median(self.seconds)


def enter(build: Callable[[], Contender], packs: Sequence[Pack]) -> Entry:
    """Build a contender and warm it up."""
    gc.collect()
    before = devices.held_bytes()
    contender = build()
    for number in range(WARM_UP):
        contender.step(packs, number)
    devices.wait()
    return Entry(contender, devices.held_bytes() - before)


def compete(entries: Sequence[Entry], batches: Sequence[Sequence[Pack]]) -> None:
    """Let every contender train each batch once, in an order that turns round from batch to batch."""
    for number, packs in enumerate(batches):
        for entry in entries if number % 2 == 0 else reversed(entries):
            others = sum(other.resident for other in entries if other is not entry) if devices.on_cuda() else 0
            devices.reset_peak()
            devices.wait()
            begun = time.perf_counter()
            loss = entry.contender.step(packs, WARM_UP + number)
            devices.wait()
            entry.seconds.append(time.perf_counter() - begun)
            entry.losses.append(loss)
            entry.peak = max(entry.peak, devices.peak_bytes() - others)


def trace(contender: Contender, packs: Sequence[Pack], file: Path, rows: int = 20) -> str:
    """Profile one step: a Chrome trace in `file`, and the operators that took longest as a table."""
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if devices.on_cuda() else [])]
    with profile(activities=activities) as profiler:
        contender.step(packs, WARM_UP)
        devices.wait()
    profiler.export_chrome_trace(str(file))
    order = "self_cuda_time_total" if devices.on_cuda() else "self_cpu_time_total"
    table: str = profiler.key_averages().table(sort_by=order, row_limit=rows, max_name_column_width=60)
    return table
