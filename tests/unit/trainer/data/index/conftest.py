"""A data set on disk, and what indexes are opened with."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from internvl_trainer.contract.catalog import ModelGeometry
from internvl_trainer.contract.job import DataConfig, MixtureSource
from internvl_trainer.data import Tokenizer
from internvl_trainer.data.index import SourceIndex, find_or_build
from internvl_trainer.data.sources import read_sources
from internvl_trainer.storage import open_store
from tests.unit.trainer.data.world import GOLDEN


@pytest.fixture
def annotate(tmp_path: Path) -> Callable[..., Path]:
    """Write an annotation file: lines as they are, or records."""

    def write(lines: Sequence[bytes | dict[str, Any]], name: str = "set.jsonl") -> Path:
        path = tmp_path / name
        path.write_bytes(b"".join(_line(line) for line in lines))
        return path

    return write


def _line(line: bytes | dict[str, Any]) -> bytes:
    return line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n"


@pytest.fixture
def open_one(tmp_path: Path, geometry: ModelGeometry, qwen: Tokenizer) -> Callable[..., SourceIndex]:
    """Find or build the index of one annotation file."""

    def find(
        annotation: Path,
        *,
        cache: str = "cache",
        source: dict[str, Any] | None = None,
        model: ModelGeometry = geometry,
        tokenizer: Tokenizer = qwen,
        processes: int = 1,
        **config: Any,
    ) -> SourceIndex:
        given = {"name": "set", "annotation": str(annotation), "root": str(tmp_path / "images")} | (source or {})
        data = DataConfig(
            mixture=(MixtureSource(**given),), tokenizer=str(GOLDEN / "qwen2_5_subset"), **{"max_tiles": 6} | config
        )
        store = open_store()
        sources = read_sources(data, store)
        (index,) = find_or_build(sources, data, model, tokenizer, store, tmp_path / cache, processes=processes)
        return index

    return find
