"""Indexes as they might be, made of numbers alone."""

from typing import Any, NamedTuple

import numpy as np

from internvl_trainer.contract.job import DataConfig
from internvl_trainer.data.index import ROW
from internvl_trainer.data.records import Kind
from internvl_trainer.data.sources import Source


def source(name: str, number: int = 0, **fields: Any) -> Source:
    """A data set of the mixture."""
    return Source(name=name, number=number, annotation=f"{name}.jsonl", **fields)


def rows(samples: list[tuple[Kind, int, int, int]]) -> np.ndarray:
    """ROW[samples] of (kind, tokens, tiles, reason)."""
    made = np.zeros(len(samples), dtype=ROW)
    for at, (kind, tokens, tiles, reason) in enumerate(samples):
        made[at] = (at * 100, 99, at + 1, tokens, tiles, kind, reason)
    return made


class Indexed(NamedTuple):
    """An index without a file."""

    source: Source
    rows: np.ndarray


def mixture() -> list[Indexed]:
    """A data set of each kind, one of them with bad samples."""
    return [
        Indexed(
            source("charts", 0, repeat_time=2.5, max_dynamic_patch=24), rows([(Kind.SINGLE_IMAGE, 500, 2, 0)] * 20)
        ),
        Indexed(source("news", 1), rows([(Kind.MULTI_IMAGE, 900, 3, 0)] * 9 + [(Kind.MULTI_IMAGE, 0, 0, 5)])),
        Indexed(source("clips", 2, repeat_time=0.5), rows([(Kind.VIDEO, 2000, 8, 0)] * 10)),
        Indexed(source("words", 3), rows([(Kind.TEXT, 100, 0, 0)] * 30)),
    ]


def data(**fields: Any) -> DataConfig:
    """Packs of 4096 tokens and 16 tiles."""
    return DataConfig(**({"meta": "meta.json", "tokenizer": "t", "pack_tokens": 4096, "pack_tiles": 16} | fields))
