"""Tiles per second of one core, from the bytes of a JPEG to tiles."""

import json
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import click
import numpy as np
import torch

from bench import devices
from bench.data.photo import photo
from bench.data.pipelines import PIPELINES, SIDE
from internvl_trainer.data.pixels import jpeg
from internvl_trainer.data.pixels.decode import decode
from internvl_trainer.data.pixels.resize import fill_tiles, resize
from internvl_trainer.data.tiling import choose_grid

SIZES = ((640, 480), (1920, 1080), (3000, 2000))
WARM_UP = 2


@dataclass
class Timing:
    """One contender on one picture. Seconds are of the processor, of all threads together."""

    name: str
    picture: str
    tiles: int
    augmented: bool
    seconds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """Of an image."""
        return statistics.median(self.seconds)

    @property
    def rate(self) -> float:
        """Tiles per second of a core."""
        return self.tiles / self.median


@click.command()
@click.option("--rounds", default=15, show_default=True, help="Timed runs of each contender on each picture.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Where to write the figures.")
def images(rounds: int, json_file: Path | None) -> None:
    """Decode, resize and cut: ours, the released trainer's steps and torchvision v2, in turns on one thread."""
    torch.set_num_threads(1)
    found = []
    click.echo(f"{devices.describe()}; {_versions()}; {datetime.now(UTC).date().isoformat()}")
    click.echo(f"python -m bench.data {shlex.join(sys.argv[1:])}\n")
    for width, height in SIZES:
        data = photo(width, height)
        columns, rows = choose_grid(width, height)
        tiles = columns * rows + 1
        picture = f"{width} x {height}, {8 * len(data) / width / height:.1f} bit per pixel, {tiles} tiles"
        for augmented in (False, True):
            timings = [Timing(name, picture, tiles, augmented) for name in PIPELINES]
            compete(timings, data, _qualities(tiles) if augmented else [], rounds)
            found += timings
        click.echo(f"ours, {picture}: {_parts(data, columns, rows, rounds)}")
    click.echo(f"\n{table(found)}")
    if json_file is not None:
        json_file.write_text(json.dumps([asdict(timing) for timing in found], indent=1) + "\n")


def compete(timings: Sequence[Timing], data: bytes, qualities: Sequence[int], rounds: int) -> None:
    """Let every contender turn the same bytes into tiles, in an order that turns round from round to round."""
    for number in range(-WARM_UP, rounds):
        for timing in timings if number % 2 == 0 else reversed(timings):
            seconds = _seconds(lambda timing=timing: PIPELINES[timing.name](data, qualities))  # type: ignore[misc]
            if number >= 0:
                timing.seconds.append(seconds)


def table(timings: Sequence[Timing]) -> str:
    """For a terminal, and for a Markdown page; the ratio is to the contender (a) on the same picture."""
    base = {(t.picture, t.augmented): t.median for t in timings if t.name.startswith("(a)")}
    head = ["picture", "JPEG pass", "", "ms per image", "tiles/s per core", "times (a)"]
    lines = [head, ["---"] * len(head)]
    for t in timings:
        times = base[t.picture, t.augmented] / t.median
        passes = "per tile" if t.augmented else "none"
        lines.append([t.picture, passes, t.name, f"{t.median * 1e3:.1f}", f"{t.rate:,.0f}", f"{times:.1f}"])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _parts(data: bytes, columns: int, rows: int, rounds: int) -> str:
    """Where our time goes, step by step."""
    pixels_HWC = decode(data).pixels_HWC
    tiles_NSSC = np.empty((columns * rows + 1, SIDE, SIDE, 3), dtype=np.uint8)

    def median(step: Callable[[], object]) -> float:
        return statistics.median(_seconds(step) for _ in range(rounds)) * 1e3

    grid = median(lambda: resize(pixels_HWC, columns * SIDE, rows * SIDE))
    thumbnail = median(lambda: resize(pixels_HWC, SIDE, SIDE))
    filled = median(lambda: fill_tiles(tiles_NSSC, pixels_HWC, columns, rows))
    return (
        f"decode {median(lambda: decode(data)):.1f} ms, grid {grid:.1f}, thumbnail {thumbnail:.1f}, "
        f"cut {max(0.0, filled - grid - thumbnail):.1f}, "
        f"JPEG pass {median(lambda: jpeg.round_trip(tiles_NSSC, _qualities(len(tiles_NSSC)))):.1f}"
    )


def _qualities(tiles: int) -> list[int]:
    """Evenly over the recipe's range, so that every picture meets its mean."""
    low, high = jpeg.QUALITIES
    return [round(quality) for quality in np.linspace(low, high, tiles)]


def _seconds(step: Callable[[], object]) -> float:
    begun = time.process_time()
    step()
    return time.process_time() - begun


def _versions() -> str:
    return ", ".join(f"{name} {version(name)}" for name in ("pillow", "simplejpeg", "torch", "torchvision"))
