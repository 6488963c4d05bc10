"""The demo's data set as a whole, with a painter that needs no font: what is written trains, nothing leaks."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from hack.demo import dataset
from hack.demo.pictures import CELL, Painter, Picture
from internvl_trainer.contract import catalog
from internvl_trainer.contract.job import DataConfig
from internvl_trainer.data import PackStream
from internvl_trainer.storage import open_store
from tests.unit.trainer.data.world import packs_of

pytestmark = pytest.mark.unit

TRAINING = tuple(Picture(chr(0x1F400 + n), f"beast {n}", "animal mammal") for n in range(12))
HELD_OUT = tuple(Picture(chr(0x1F600 + n), f"visage {n}", "face smiling") for n in range(3))


class Blocks(Painter):
    """Paints one colour for each picture."""

    def __init__(self) -> None:
        self._glyphs = {}

    def _glyph(self, picture: Picture) -> Image.Image:
        return Image.new("RGBA", (20, 20), (ord(picture.text[0]) % 256, 80, 160, 255))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        for name, count in (("SHEETS", 6), ("SEVERAL", 6), ("CLUES", 2)):
            patch.setattr(dataset, name, count)
        dataset.write(dataset.DemoSet(TRAINING, HELD_OUT, Blocks()), made)
    return made


def _records(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("stage", sorted(dataset.MIXTURES))
def test_every_stage_mixture_yields_packs_for_the_tiny_models(folder: Path, stage: str, tmp_path: Path) -> None:
    config = DataConfig(
        meta=str(folder / f"{stage}.json"), tokenizer=str(folder / "tokenizer"), pack_tokens=1024, pack_tiles=24
    )
    stream = PackStream(
        config, model=catalog.get("tiny-1b-like"), loss_reweighting="square", store=open_store(), cache=tmp_path
    )

    packs = packs_of(stream)

    assert not any(index.header.bad for index in stream.indexes)
    assert all(pack.weights_S.sum() > 0 for pack in packs)
    assert (stage == "pretrain") == all(pack.tile_count == 0 for pack in packs)
    assert stream.tokenizer.vocab_size <= catalog.get("tiny-1b-like").language.vocab_size


def test_contact_sheets_are_cut_into_their_cells_and_a_thumbnail(folder: Path, tmp_path: Path) -> None:
    config = DataConfig(meta=str(folder / "sheets-only.json"), tokenizer=str(folder / "tokenizer"), max_tiles=6)
    (folder / "sheets-only.json").write_text('{"sheets": {"annotation": "sheets.jsonl"}}')
    stream = PackStream(
        config, model=catalog.get("tiny-1b-like"), loss_reweighting="square", store=open_store(), cache=tmp_path
    )

    tiles = sum(pack.tile_count for pack in packs_of(stream, with_tiles=False))

    cells = sum(record["width"] * record["height"] // CELL**2 for record in _records(folder, "sheets"))
    assert tiles == cells + len(_records(folder, "sheets"))


def test_held_out_pictures_and_captions_occur_nowhere_in_training(folder: Path) -> None:
    meta = [json.loads((folder / f"{stage}.json").read_text()) for stage in dataset.MIXTURES]
    trained_on = {entry["annotation"] for mixture in meta for entry in mixture.values()}
    assert "held_out.jsonl" not in trained_on

    training = "".join((folder / name).read_text() for name in trained_on)
    vocabulary = json.loads((folder / "tokenizer" / "tokenizer.json").read_text())["model"]["vocab"]
    for picture in HELD_OUT:
        assert picture.name not in training
        assert picture.key not in training
        assert (folder / "pictures" / f"{picture.key}-0.png").exists()
    assert not any("visage" in token for token in vocabulary)


def test_the_same_seed_writes_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for name, count in (("SHEETS", 6), ("SEVERAL", 6), ("CLUES", 2)):
            patch.setattr(dataset, name, count)
        dataset.write(dataset.DemoSet(TRAINING, HELD_OUT, Blocks()), tmp_path)

    written = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    assert len(written) > 50
    assert all((tmp_path / path).read_bytes() == (folder / path).read_bytes() for path in written)


def test_an_upload_copies_every_file(folder: Path, tmp_path: Path) -> None:
    count = dataset.upload(folder, f"file://{tmp_path}/bucket/demo", open_store())

    copied = [path for path in (tmp_path / "bucket" / "demo").rglob("*") if path.is_file()]
    assert len(copied) == count
    assert (tmp_path / "bucket/demo/stage2.json").read_bytes() == (folder / "stage2.json").read_bytes()
