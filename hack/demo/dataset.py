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
CLUES = 6
"""Sets of clues for each caption."""
VOCAB_SIZE = 2048

_UPLOADS = 16
_PROMPT_WEIGHT = 50  # prompts stand in every sample, so they should take few tokens

_SINGLE: dict[str, object] = {"data_augment": True, "max_dynamic_patch": 1}

MIXTURES: dict[str, dict[str, dict[str, object]]] = {
    "pretrain": {"clues": {}},
    "stage1": {"captions": _SINGLE, "kinds": _SINGLE},
    "stage1-5": {"captions": _SINGLE, "kinds": _SINGLE},
    "stage2": {
        "captions": _SINGLE,
        "kinds": _SINGLE | {"repeat_time": 0.5},
        "sheets": {"data_augment": True, "max_dynamic_patch": 6},
        "several": {"data_augment": True, "max_dynamic_patch": 4, "repeat_time": 0.5},
        "clues": {"repeat_time": 0.05},
    },
}
"""Data sets of each stage, in the meta JSON's own fields. `pretrain` is text alone, for the language model."""


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
    training = demo.training
    files: dict[str, Iterable[records.Record]] = {
        "captions": [records.caption(picture, variant) for picture, variant in _renderings(training)],
        "kinds": [records.kind(picture, variant) for picture, variant in _renderings(training)],
        "clues": _clues(training, seed),
        "several": _several(training, seed),
        "sheets": _write_sheets(demo, folder, seed),
        "held_out": records.questions(demo.held_out, seed),
    }
    for name, entries in files.items():
        _write_jsonl(folder / f"{name}.jsonl", entries)
    for stage, mixture in MIXTURES.items():
        meta = {name: {"root": "", "annotation": f"{name}.jsonl"} | options for name, options in mixture.items()}
        (folder / f"{stage}.json").write_text(json.dumps(meta, indent=1) + "\n")
    spoken = [text for picture in training for text in (picture.caption, " ".join(records.words(picture)))]
    prompts = [
        records.SYSTEM,
        f"\n{records.QUESTION}",
        f"\n{records.QUESTION_MANY}",
        f"\n{records.QUESTION_KIND}",
        "\nImage-1: ",
    ]
    bpe = tokenizer.train([*spoken, *prompts * _PROMPT_WEIGHT], vocab_size=VOCAB_SIZE)
    tokenizer.save(bpe, folder / "tokenizer")


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


def _renderings(pictures: Sequence[Picture]) -> list[tuple[Picture, int]]:
    return [(picture, variant) for picture in pictures for variant in range(records.VARIANTS)]


def _clues(pictures: Sequence[Picture], seed: int) -> list[records.Record]:
    draw = random.Random(f"{seed}/clues")
    vocabulary = [word for picture in pictures for word in records.words(picture)]
    return [records.clues(picture, vocabulary, draw, number) for number in range(CLUES) for picture in pictures]


def _several(pictures: Sequence[Picture], seed: int) -> list[records.Record]:
    draw = random.Random(f"{seed}/several")
    return [records.several(pictures, draw, number) for number in range(SEVERAL)]


def _write_pictures(demo: DemoSet, folder: Path, seed: int) -> None:
    wanted = _renderings(demo.training) + [(picture, 0) for picture in demo.held_out]
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
