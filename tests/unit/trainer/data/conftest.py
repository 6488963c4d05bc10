"""A tiny world to train on: pictures by formula, a real tokenizer, a meta JSON and its JSONL."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from internvl_trainer.contract.catalog import MODELS, ModelGeometry
from internvl_trainer.contract.job import DataConfig
from internvl_trainer.data import PackStream, Tokenizer
from internvl_trainer.data.loss_weights import LossReweighting
from internvl_trainer.storage import open_store
from tests.unit.trainer.data.world import GOLDEN, formula_image


@pytest.fixture(scope="session")
def qwen() -> Tokenizer:
    """Qwen2.5's tokenizer, cut down to what the golden conversations need."""
    return Tokenizer.load(str(GOLDEN / "qwen2_5_subset"), open_store(), family="qwen2.5")


@pytest.fixture(scope="session")
def geometry() -> ModelGeometry:
    """A tiny vision encoder (112 px tiles, 16 visual tokens) before Qwen2.5's vocabulary."""
    tiny = MODELS["tiny-1b-like"]
    return tiny.model_copy(update={"language": tiny.language.model_copy(update={"vocab_size": 151674})})


@pytest.fixture
def make_stream(tmp_path: Path, geometry: ModelGeometry) -> Callable[..., PackStream]:
    """Write data sets of records under tmp_path and open a stream over them."""

    def make(
        datasets: dict[str, list[dict[str, Any]]],
        *,
        entry: dict[str, Any] | None = None,
        loss_reweighting: LossReweighting = "square",
        model: ModelGeometry = geometry,
        **config: Any,
    ) -> PackStream:
        meta = {}
        for name, records in datasets.items():
            path, lines = tmp_path / f"{name}.jsonl", "".join(json.dumps(record) + "\n" for record in records)
            # A file that is written anew is another one to the stream that has it open.
            if not path.exists() or path.read_text() != lines:
                path.write_text(lines)
            meta[name] = {"root": "images", "annotation": f"{name}.jsonl"} | (entry or {})
        (tmp_path / "meta.json").write_text(json.dumps(meta))
        data = DataConfig(meta=f"file://{tmp_path}/meta.json", tokenizer=str(GOLDEN / "qwen2_5_subset"), **config)
        return PackStream(
            data, model=model, loss_reweighting=loss_reweighting, store=open_store(), cache=tmp_path / "cache"
        )

    return make


@pytest.fixture
def save_image(tmp_path: Path) -> Callable[[str, int, int], None]:
    """Put a formula picture into the data sets' root."""

    def save(name: str, width: int, height: int) -> None:
        (tmp_path / "images").mkdir(exist_ok=True)
        formula_image(width, height).save(tmp_path / "images" / name)

    return save
