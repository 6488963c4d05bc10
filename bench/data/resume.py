"""How long it takes to know what comes next in the middle of a large epoch: looked up, or skipped through.

python -m bench.data resume
"""

import json
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np

from bench.data.mixes import MIXES
from internvl_trainer.contract import catalog
from internvl_trainer.contract.base import Component
from internvl_trainer.contract.data_position import DataPosition
from internvl_trainer.data.index import ROW
from internvl_trainer.data.packing import PackCost, PackLimits, reference_greedy
from internvl_trainer.data.walk import WINDOW, Walk

LIMITS = PackLimits(16384, 48)
_BLOCK = 1_000_000


class Resumed(NamedTuple):
    """Seconds until the keys of the next packs are known."""

    looked_up: float
    """By the walk, from a position: opening the index's rows, one window, one global batch."""
    skipped: float
    """By shuffling all rows and packing every sample up to there, as the released trainer's loader goes."""

    @property
    def ratio(self) -> float:
        """How many times longer skipping takes."""
        return self.skipped / self.looked_up


@click.command()
@click.option("--rows", default=50_000_000, show_default=True, help="Samples of the data set.")
@click.option("--at", default=10_000_000, show_default=True, help="Sample to go on from.")
@click.option("--global-batch", default=512, show_default=True)
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Where to write the figures.")
def resume(rows: int, at: int, global_batch: int, json_file: Path | None) -> None:
    """Time to the first global batch far into an epoch, from lengths alone: nobody reads a record or an image."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows"
        write_rows(path, rows)
        found = Resumed(look_up(path, at, global_batch), skip(path, at))
    click.echo(f"looked up: {found.looked_up * 1e3:,.0f} ms, skipped through: {found.skipped:,.1f} s")
    click.echo(f"{found.ratio:,.0f} times faster, at sample {at:,} of {rows:,}, {at // WINDOW:,} windows in")
    if json_file:
        json_file.write_text(json.dumps(found._asdict() | {"ratio": found.ratio}, indent=1))


def write_rows(path: Path, rows: int) -> None:
    """An index's rows of an InternVL-like mix, the same million over and over."""
    tokens, tiles = MIXES["InternVL-like"](min(rows, _BLOCK), 0)
    block = np.zeros(len(tokens), dtype=ROW)
    block["tokens"], block["tiles"] = tokens, tiles
    with path.open("wb") as file:
        for begin in range(0, rows, len(block)):
            block[: rows - begin].tofile(file)


def look_up(path: Path, at: int, global_batch: int) -> float:
    """Seconds from a path and a position to the keys of a global batch."""
    begin = time.perf_counter()
    walk = Walk(
        [np.memmap(path, dtype=ROW, mode="r")],
        [1.0],
        limits=LIMITS,
        cost=PackCost.of_model(catalog.MODELS["InternVL2_5-1B"], tuple(Component)),
        repeat_mode="exact",
        seed=42,
    )
    walk.batch(DataPosition(window=at // WINDOW), global_batch)
    return time.perf_counter() - begin


def skip(path: Path, at: int) -> float:
    """Seconds to draw and pack every sample up to a place in the shuffled order."""
    begin = time.perf_counter()
    rows = np.memmap(path, dtype=ROW, mode="r")
    drawn = rows[np.random.default_rng(0).permutation(len(rows))[:at]]
    samples = zip(drawn["tokens"].tolist(), np.maximum(drawn["tiles"], 1).tolist(), strict=True)
    reference_greedy(samples, max_tokens=LIMITS.tokens, max_tiles=LIMITS.tiles, buffer_size=20)
    return time.perf_counter() - begin


if __name__ == "__main__":
    resume()
