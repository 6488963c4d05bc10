"""What an index costs: building it by line, keeping it by sample, opening and using it by process.

python -m bench.data index --tokenizer s3://models/InternVL2_5-8B
"""

import json
import random
import re
import shutil
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
import psutil

from internvl_trainer.contract import catalog
from internvl_trainer.contract.job import DataConfig, MixtureSource
from internvl_trainer.data import seeding
from internvl_trainer.data.index import ROW, SourceIndex, find_or_build
from internvl_trainer.data.index.header import IndexFile, IndexHeader
from internvl_trainer.data.index.lines import LocalFile
from internvl_trainer.data.index.source_index import IndexFiles
from internvl_trainer.data.sources import from_mixture
from internvl_trainer.data.tokenizer import Tokenizer
from internvl_trainer.storage import open_store

MIB = 2**20
WORDS = ("the", "a", "picture", "shows", "two", "people", "near", "red", "house", "and", "how", "many", "of", "them")
SIZES = ((640, 480), (1024, 768), (1920, 1080), (448, 448))
BLOCK_ROWS = 1_000_000


class Built(NamedTuple):
    """One build. `parent_mib` and `worker_mib` are the highest private memory that was seen (RssAnon)."""

    processes: int
    lines: int
    seconds: float
    cpu_seconds: float
    parent_mib: float
    worker_mib: float

    def line(self) -> str:
        """For people."""
        return (
            f"{self.processes} processes: {self.lines:,} lines in {self.seconds:.1f} s "
            f"({self.lines / self.seconds:,.0f} lines/s), {self.lines / self.cpu_seconds:,.0f} lines/s of CPU time; "
            f"private memory {self.parent_mib:.0f} MiB here, {self.worker_mib:.0f} MiB in each worker"
        )


class Opened(NamedTuple):
    """One use of a large index. Memory is what the process had more than before (RssAnon, RssFile)."""

    rows: int
    disk_mib: float
    open_seconds: float
    reads: int
    read_seconds: float
    private_mib: float
    page_cache_mib: float

    def line(self) -> str:
        """For people."""
        return (
            f"{self.rows:,} rows, {self.disk_mib:,.0f} MiB on disk: opened in {self.open_seconds * 1e3:.2f} ms, "
            f"{self.reads:,} random rows in {self.read_seconds:.2f} s; private memory +{self.private_mib:.1f} MiB, "
            f"page cache mapped +{self.page_cache_mib:,.0f} MiB"
        )


@click.command()
@click.option("--tokenizer", required=True, help="Folder with the tokenizer.json of a Qwen2.5 model, by URI or path.")
@click.option("--lines", default=1_000_000, show_default=True, help="Lines of the annotation file that is built from.")
@click.option("--rows", default=50_000_000, show_default=True, help="Rows of the index that is opened.")
@click.option("--reads", default=100_000, show_default=True, help="Rows that are read of it, at random.")
@click.option("--processes", multiple=True, type=int, default=(1, 2), show_default=True, help="Of a build; repeatable.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Where to write the figures.")
def index(
    tokenizer: str, lines: int, rows: int, reads: int, processes: tuple[int, ...], json_file: Path | None
) -> None:
    """Build an index of short conversations with given image sizes; open one of 50 million rows."""
    folder = Path(tempfile.mkdtemp(prefix="bench-index-"))
    try:
        opened = open_large(folder / "rows", rows, reads)
        click.echo(opened.line())
        size = write_annotation(folder / "set.jsonl", lines)
        click.echo(f"{lines:,} lines, {size / MIB:,.0f} MiB of JSONL")
        built = [build(folder, tokenizer, number) for number in processes]
        for each in built:
            click.echo(each.line())
    finally:
        shutil.rmtree(folder)
    if json_file:
        facts = {"opened": opened._asdict(), "built": [each._asdict() for each in built], "jsonl_bytes": size}
        json_file.write_text(json.dumps(facts, indent=1))


def write_annotation(path: Path, lines: int) -> int:
    """A JSONL of conversations about one image each, of one to three rounds; returns its bytes."""
    draws = random.Random(0)
    with path.open("w") as file:
        for number in range(lines):
            width, height = draws.choice(SIZES)
            record = {"id": number, "image": f"{number:09d}.jpg", "width": width, "height": height}
            file.write(json.dumps(record | {"conversations": _turns(draws)}) + "\n")
    return path.stat().st_size


def _turns(draws: random.Random) -> list[dict[str, str]]:
    turns = []
    for turn in range(draws.choice((1, 1, 2, 3))):
        question, answer = (" ".join(draws.choices(WORDS, k=count)) for count in (10, draws.choice((3, 20, 45))))
        turns.append({"from": "human", "value": ("<image>\n" if turn == 0 else "") + question + "?"})
        turns.append({"from": "gpt", "value": answer + "."})
    return turns


def build(folder: Path, tokenizer: str, processes: int) -> Built:
    """Build the index of `set.jsonl` from nothing."""
    store = open_store()
    mixture = (MixtureSource(name="set", annotation=str(folder / "set.jsonl")),)
    data = DataConfig(mixture=mixture, tokenizer=tokenizer)
    model = catalog.get("InternVL2_5-1B")
    loaded = Tokenizer.load(tokenizer, store, family=model.language.family)
    cache = folder / f"cache-{processes}"
    with _Memory() as memory:
        begun, cpu = time.perf_counter(), _cpu_seconds()
        (found,) = find_or_build(from_mixture(mixture), data, model, loaded, store, cache, processes=processes)
        seconds, cpu_seconds = time.perf_counter() - begun, _cpu_seconds() - cpu
    assert not found.header.bad, found.header.messages
    return Built(processes, len(found), seconds, cpu_seconds, memory.here / MIB, memory.worker / MIB)


def open_large(path: Path, rows: int, reads: int) -> Opened:
    """Write an index of so many rows, open it in this process, and read some of them."""
    with path.open("wb") as file:
        for begin in range(0, rows, BLOCK_ROWS):
            file.write(_block(min(BLOCK_ROWS, rows - begin), begin))
    path.with_name("empty.jsonl").touch()
    wanted = seeding.draw(reads, 1) % np.uint64(rows)
    header = IndexHeader(
        digest="0" * 64, source="large", annotation="large.jsonl", samples=rows, bad=0, tokens=0, tiles=0, kinds={},
        reasons={}, rows=IndexFile(size=path.stat().st_size, sha256="0" * 64),
        bad_samples=IndexFile(size=0, sha256="0" * 64),
    )  # fmt: skip
    (source,) = from_mixture([MixtureSource(name="large", annotation="large.jsonl")])
    private, mapped, begun = _resident("RssAnon"), _resident("RssFile"), time.perf_counter()
    opened = SourceIndex(source, header, IndexFiles(path, path), LocalFile(path.with_name("empty.jsonl")))
    table = opened.rows
    open_seconds = time.perf_counter() - begun
    total = sum(int(table[row]["tokens"]) for row in wanted.tolist())
    read_seconds = time.perf_counter() - begun - open_seconds
    assert total > 0
    return Opened(
        rows,
        path.stat().st_size / MIB,
        open_seconds,
        reads,
        read_seconds,
        (_resident("RssAnon") - private) / MIB,
        (_resident("RssFile") - mapped) / MIB,
    )


def _block(rows: int, begin: int) -> bytes:
    block = np.zeros(rows, ROW)
    block["line"] = np.arange(begin + 1, begin + rows + 1)
    block["tokens"] = seeding.integers(rows, 16, 16384, begin)
    return block.tobytes()


class _Memory:
    """Looks at the private memory of this process and of its children, until the end of a block."""

    def __init__(self) -> None:
        self.here = self.worker = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> "_Memory":
        self._thread.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._ended.wait(0.5):
            self.here = max(self.here, _resident("RssAnon"))
            for child in psutil.Process().children():
                self.worker = max(self.worker, _resident("RssAnon", child.pid))


def _resident(field: str, pid: int | None = None) -> int:
    """Bytes, by a field of /proc/<pid>/status; 0 for a process that has ended."""
    try:
        status = Path(f"/proc/{pid or 'self'}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    found = re.search(rf"^{field}:\s+(\d+) kB", status, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def _cpu_seconds() -> float:
    """Of this process and of its children that have ended."""
    times = psutil.Process().cpu_times()
    return float(times.user + times.system + times.children_user + times.children_system)
