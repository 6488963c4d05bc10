"""Make the demo's data set: pictures, conversations, stage mixtures, tokenizer and held-out questions.

    python -m hack.demo.dataset --out .state/demo/data

The folder holds what a run reads: one meta JSON per stage beside its JSONL files, the pictures, `tokenizer/`, and
`held_out.jsonl` with the questions of the final evaluation. One picture in ten is held out: neither it nor its name
occurs anywhere in training, the tokenizer included.
"""

import json
import random
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import click
from rich.progress import Progress, track

from hack.demo import records, tokenizer
from hack.demo.debian import unpack
from hack.demo.pictures import EMOJI_TEST, FONT, PACKAGES, Painter, Picture, is_held_out, read_pictures
from internvl_trainer.storage import ObjectStore, open_store

SEED = 42
SHEETS = 300
SEVERAL = 600
VOCAB_SIZE = 2048

_UPLOADS = 16

MIXTURES: dict[str, dict[str, dict[str, object]]] = {
    "pretrain": {"names": {}, "kinds-of-names": {}},
    "stage1": {"captions": {"data_augment": True, "max_dynamic_patch": 1}},
    "stage1-5": {"captions": {"data_augment": True, "max_dynamic_patch": 1}},
    "stage2": {
        "captions": {"data_augment": True, "max_dynamic_patch": 1, "repeat_time": 0.7},
        "kinds": {"data_augment": True, "max_dynamic_patch": 1, "repeat_time": 0.3},
        "sheets": {"data_augment": True, "max_dynamic_patch": 6},
        "several": {"data_augment": True, "max_dynamic_patch": 4, "repeat_time": 0.5},
        "names": {"repeat_time": 0.25},
    },
}
"""Data sets of each stage, in the meta JSON's own fields."""


@dataclass(frozen=True)
class DemoSet:
    """The pictures of both parts, and the painter that draws them."""

    training: tuple[Picture, ...]
    held_out: tuple[Picture, ...]
    painter: Painter


def open_set(packages: Path, *, seed: int = SEED) -> DemoSet:
    """The demo's pictures, from Debian's font and Unicode data unpacked below `packages` (brought when missing).

    Raises:
        PackageError: apt could not bring the packages.
    """
    root = unpack(PACKAGES, packages)
    pictures = read_pictures((root / EMOJI_TEST).read_text())
    held_out = tuple(picture for picture in pictures if is_held_out(picture, seed))
    training = tuple(picture for picture in pictures if not is_held_out(picture, seed))
    return DemoSet(training, held_out, Painter(root / FONT))


def write(demo: DemoSet, folder: Path, *, seed: int = SEED) -> None:
    """Write the whole data set below `folder`: about 5,500 pictures, in some ten seconds."""
    for name in ("pictures", "sheets"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    _write_pictures(demo, folder, seed)
    several = random.Random(f"{seed}/several")
    training = demo.training
    variants = [(picture, variant) for picture in training for variant in range(records.VARIANTS)]
    files: dict[str, Iterable[records.Record]] = {
        "captions": [records.caption(picture, variant) for picture, variant in variants],
        "kinds": [records.name_and_kind(picture, variant) for picture, variant in variants],
        "names": [records.spoken_name(picture) for picture in training],
        "kinds-of-names": [records.spoken_kind(picture) for picture in training],
        "several": [records.several(training, several, number) for number in range(SEVERAL)],
        "sheets": _write_sheets(demo, folder, seed),
        "held_out": records.questions(demo.held_out, seed),
    }
    for name, entries in files.items():
        _write_jsonl(folder / f"{name}.jsonl", entries)
    for stage, mixture in MIXTURES.items():
        meta = {name: {"root": "", "annotation": f"{name}.jsonl"} | options for name, options in mixture.items()}
        (folder / f"{stage}.json").write_text(json.dumps(meta, indent=1) + "\n")
    names = [turn["value"] for name in ("names", "kinds-of-names", "captions") for turn in _turns(folder, name)]
    tokenizer.save(tokenizer.train(names, vocab_size=VOCAB_SIZE), folder / "tokenizer")


def upload(folder: Path, uri: str, store: ObjectStore) -> int:
    """Copy every file of a data set below `uri`, several at a time, and return how many there were.

    Raises:
        StoreError: the store did not take one of them.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    with Progress() as progress, ThreadPoolExecutor(_UPLOADS) as pool:
        task = progress.add_task(f"uploading to {uri}", total=len(files))
        targets = [f"{uri.rstrip('/')}/{path.relative_to(folder).as_posix()}" for path in files]
        for _ in pool.map(store.upload, files, targets):
            progress.advance(task)
    return len(files)


def _write_pictures(demo: DemoSet, folder: Path, seed: int) -> None:
    wanted = [(picture, variant) for picture in demo.training for variant in range(records.VARIANTS)]
    wanted += [(picture, 0) for picture in demo.held_out]
    for picture, variant in track(wanted, description="drawing pictures"):
        demo.painter.cell(picture, variant, seed).save(folder / records.image_path(picture, variant))


def _write_sheets(demo: DemoSet, folder: Path, seed: int) -> list[records.Record]:
    draw = random.Random(f"{seed}/sheets")
    written = []
    for number in track(range(SHEETS), description="drawing contact sheets"):
        record, pictures, columns = records.sheet(demo.training, draw, number)
        cells = [demo.painter.cell(picture, draw.randrange(records.VARIANTS), seed) for picture in pictures]
        demo.painter.sheet(cells, columns).save(folder / record["image"])
        written.append(record)
    return written


def _write_jsonl(path: Path, entries: Iterable[records.Record]) -> None:
    path.write_text("".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries))


def _turns(folder: Path, name: str) -> Sequence[dict[str, str]]:
    lines = (folder / f"{name}.jsonl").read_text().splitlines()
    return [turn for line in lines for turn in json.loads(line)["conversations"]]


@click.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, help="folder to write the data set to")
@click.option(
    "--packages",
    type=click.Path(path_type=Path),
    default=Path(".state/demo/debian"),
    show_default=True,
    help="where Debian's font and Unicode data are unpacked",
)
@click.option("--upload", "target", help="s3:// or file:// URI to copy the data set to")
@click.option("--endpoint-url", help="of an S3-compatible store; default: the environment's AWS configuration")
def main(out: Path, packages: Path, target: str | None, endpoint_url: str | None) -> None:
    """Make the demo's data set, and upload it if asked to."""
    demo = open_set(packages)
    write(demo, out)
    click.echo(f"{len(demo.training)} pictures to learn and {len(demo.held_out)} held out in {out}")
    if target:
        count = upload(out, target, open_store(endpoint_url=endpoint_url))
        click.echo(f"{count} files in {target}")


if __name__ == "__main__":
    main()
