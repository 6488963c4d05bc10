"""Tiles per second of the whole loader, from files to packs in the trainer's hands.

Shapes: N tiles, C = 3 colours, S a tile's side.
"""

import json
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

import click
import psutil
import torch
from rich.console import Console
from rich.table import Table
from torch.utils.data import DataLoader, Dataset

from bench import devices
from bench.data.photo import photo
from bench.data.pipelines import with_pillow
from hack.demo import tokenizer
from internvl_trainer.contract import catalog
from internvl_trainer.contract.data_position import DataPosition
from internvl_trainer.contract.job import DataConfig
from internvl_trainer.data import Pack, PackStream, Tokenizer
from internvl_trainer.storage import open_store
from internvl_trainer.train import workers as loader_workers
from internvl_trainer.train.feed import feed
from internvl_trainer.train.prefetch import Prefetch

MODEL = catalog.get("InternVL2_5-1B")
WIDTH, HEIGHT = 1920, 1080
PICTURES = 24
"""Different files; each is drawn many times, and all stay in the page cache."""
SENTENCE = "The picture shows a street with many people on a market day in front of an old house with a garden."
ANSWER = " ".join([SENTENCE] * 6)
"""Of a length that descriptions of pictures have."""
PACKS_PER_STEP = 2
WARM_UP = 2
"""Steps before the clock runs: processes start, and fill their queues."""
NEEDED = 2200.0
"""Tiles per second of a node with 8 GPUs, as stage 1 of the 1B model takes them."""


@dataclass(frozen=True)
class Rate:
    """What one contender did. Processor seconds are of all its processes, the taking one included."""

    name: str
    workers: int
    tiles: int
    seconds: float
    processor_seconds: float

    @property
    def per_second(self) -> float:
        return self.tiles / self.seconds

    @property
    def per_core(self) -> float:
        """Tiles per second of processor time: what a core that does nothing else gives."""
        return self.tiles / self.processor_seconds


@click.command()
@click.option(
    "--packs", default=32, show_default=True, help="Timed packs of each contender, 48 tiles each or nearly so."
)
@click.option("--workers", multiple=True, default=[0, 1, 2], show_default=True, help="Repeatable.")
@click.option("--rounds", default=3, show_default=True, help="Runs of each contender, in turns; the best one counts.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Where to write the figures.")
def loader(packs: int, workers: tuple[int, ...], rounds: int, json_file: Path | None) -> None:
    """Decode, tokenise, assemble and hand over: our feed and a DataLoader over the released trainer's steps."""
    torch.set_num_threads(1)
    rates: dict[tuple[str, int], Rate] = {}
    with tempfile.TemporaryDirectory() as folder:
        world = write_world(Path(folder))
        for turn in range(rounds):
            for count in workers if turn % 2 == 0 else reversed(workers):
                for contender in (ours, reference_shaped):
                    rate = contender(world, packs, count)
                    best = rates.get((rate.name, count))
                    rates[rate.name, count] = rate if best is None or rate.per_second > best.per_second else best
        text_seconds = seconds_of_text(world, packs)
    show(list(rates.values()), text_seconds)
    if json_file is not None:
        figures = [asdict(rate) | {"tiles_per_second": rate.per_second} for rate in rates.values()]
        json_file.write_text(json.dumps({"contenders": figures, "text_seconds_per_pack": text_seconds}, indent=1))


def write_world(folder: Path) -> Path:
    """Pictures of 1080p, a question and an answer of some hundred words about each, a tokenizer."""
    turns = [{"from": "human", "value": "<image>\nDescribe the picture."}, {"from": "gpt", "value": ANSWER}]
    lines = []
    for number in range(PICTURES):
        (folder / f"{number}.jpg").write_bytes(photo(WIDTH, HEIGHT, seed=number))
        record = {"id": number, "image": f"{number}.jpg", "width": WIDTH, "height": HEIGHT, "conversations": turns}
        lines.append(json.dumps(record) + "\n")
    (folder / "pictures.jsonl").write_text("".join(lines * 16))
    tokenizer.save(tokenizer.train([ANSWER], vocab_size=512), folder / "tokenizer")
    (folder / "meta.json").write_text('{"pictures": {"root": "", "annotation": "pictures.jsonl"}}')
    return folder


def open_stream(world: Path) -> PackStream:
    """Full packs of 16,384 tokens and 48 tiles."""
    data = DataConfig(meta=str(world / "meta.json"), tokenizer=str(world / "tokenizer"))
    return PackStream(data, model=MODEL, loss_reweighting="square", store=open_store(), cache=world / "cache")


def ours(world: Path, packs: int, workers: int) -> Rate:
    """The trainer's own feed."""
    loader_workers.preload()
    with feed(
        open_stream(world),
        DataPosition(),
        global_batch=PACKS_PER_STEP,
        rank=0,
        ranks=1,
        with_tiles=True,
        prefetch=Prefetch(workers, 2),
    ) as steps:

        def tiles_of_step() -> int:
            return sum(pack.tile_count for pack in next(steps).packs)

        return timed("ours", workers, tiles_of_step, packs // PACKS_PER_STEP)


class _Pictures(Dataset[tuple[torch.Tensor, list[int]]]):
    """Samples as the released trainer makes them: float tiles and token ids."""

    def __init__(self, world: Path) -> None:
        self._world = world
        self._records = [json.loads(line) for line in (world / "pictures.jsonl").open()]
        self._tokenizer = Tokenizer.load(str(world / "tokenizer"), open_store(), family=MODEL.language.family)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, number: int) -> tuple[torch.Tensor, list[int]]:
        record = self._records[number % len(self._records)]
        tiles_NCSS = with_pillow((self._world / record["image"]).read_bytes(), ())
        visual = "<img>" + "<IMG_CONTEXT>" * (MODEL.tokens_per_tile * len(tiles_NCSS)) + "</img>"
        text = "".join(turn["value"].replace("<image>", visual) for turn in record["conversations"])
        return tiles_NCSS, self._tokenizer.encode(text)


def reference_shaped(world: Path, packs: int, workers: int) -> Rate:
    """torch's DataLoader over such samples, put together to packs of 48 tiles."""
    samples = DataLoader(
        _Pictures(world),
        batch_size=None,
        sampler=range(10**9),
        num_workers=workers,
        multiprocessing_context="forkserver" if workers else None,
    )
    steps = reference_packs(iter(samples))

    def tiles_of_step() -> int:
        return sum(len(pack) for pack in islice(steps, PACKS_PER_STEP))

    return timed("released trainer's steps", workers, tiles_of_step, packs // PACKS_PER_STEP)


def reference_packs(samples: Iterator[tuple[torch.Tensor, list[int]]]) -> Iterator[torch.Tensor]:
    """Tiles of as many samples as a pack holds."""
    held: list[torch.Tensor] = []
    for tiles_NCSS, _ in samples:
        if sum(map(len, held)) + len(tiles_NCSS) > 48:
            yield torch.cat(held)
            held = []
        held.append(tiles_NCSS)


def timed(name: str, workers: int, step: Callable[[], int], steps: int) -> Rate:
    """Tiles of some steps, after those that only warm up."""
    for _ in range(WARM_UP):
        step()
    begun, processor = time.perf_counter(), processor_seconds()
    tiles = sum(step() for _ in range(steps))
    return Rate(name, workers, tiles, time.perf_counter() - begun, processor_seconds() - processor)


def processor_seconds() -> float:
    """Of this process and of all that descend from it, living ones alone."""
    here = psutil.Process()
    times = [process.cpu_times() for process in (here, *here.children(recursive=True))]
    return float(sum(each.user + each.system for each in times))


def seconds_of_text(world: Path, packs: int) -> float:
    """What a pack without pixels takes a rank that gets its tiles from a peer."""
    stream = open_stream(world)
    keys = [key for (key,), _ in islice(stream.batches(DataPosition(), 1), packs)]
    loaded: list[Pack] = []
    begun = time.process_time()
    for key in keys:
        loaded.append(stream.load(key, with_tiles=False))
    return (time.process_time() - begun) / len(loaded)


def show(rates: list[Rate], text_seconds: float) -> None:
    """A table, and how many cores a node needs."""
    console = Console()
    console.print(f"{devices.describe()}; {datetime.now(UTC).date().isoformat()}", highlight=False)
    console.print(f"python -m bench.data {shlex.join(sys.argv[1:])}\n", highlight=False)
    table = Table()
    for column in ("loader", "processes", "tiles/s", "tiles/s per core", f"cores for {NEEDED:,.0f} tiles/s"):
        table.add_column(column, justify="left" if column == "loader" else "right")
    for rate in sorted(rates, key=lambda rate: (rate.name, rate.workers)):
        cores = NEEDED / rate.per_core
        table.add_row(rate.name, str(rate.workers), f"{rate.per_second:,.0f}", f"{rate.per_core:,.0f}", f"{cores:.1f}")
    console.print(table)
    console.print(f"A pack without pixels: {text_seconds * 1e3:.1f} ms of a core.")
