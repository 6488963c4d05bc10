"""What identifies an index, and what is known of it without its rows."""

import hashlib
import json
from typing import Literal

from pydantic import Field

from internvl_trainer.contract.base import Contract
from internvl_trainer.contract.catalog import ModelGeometry
from internvl_trainer.contract.job import DataConfig
from internvl_trainer.contract.manifest import Sha256
from internvl_trainer.data.index.lines import AnnotationFile
from internvl_trainer.data.sources import Source
from internvl_trainer.data.tokenizer import Tokenizer

FORMAT: Literal["internvl-index/v1"] = "internvl-index/v1"
"""Of the rows, and of the rules by which samples are measured: a change to either needs another."""

WITHOUT_EFFECT = frozenset(
    {"meta", "mixture", "tokenizer", "repeat_mode", "max_bad_fraction", "index", "workers", "seed"}
)
"""Fields of a DataConfig that change no row. A tokenizer counts by its content, a data set by what it says itself.

A field that is not named here is part of an index's identity: at worst, an index is built that was not needed.
"""


class IndexFile(Contract):
    """A file that belongs to an index, as its builder has written it."""

    size: int = Field(ge=0, description="bytes")
    sha256: Sha256


class IndexHeader(Contract):
    """What is kept beside an index's rows, as JSON. It holds no time and no place: the same data gives the same bytes.

    `reasons` and `kinds` count samples; `messages` are those of the first bad ones.
    """

    format: Literal["internvl-index/v1"] = FORMAT
    digest: Sha256
    source: str
    annotation: str
    samples: int = Field(ge=0, description="good and bad")
    bad: int = Field(ge=0)
    tokens: int = Field(ge=0, description="of all good samples")
    tiles: int = Field(ge=0, description="of all good samples")
    kinds: dict[str, int] = Field(description="good samples by what they consist of")
    reasons: dict[str, int] = Field(description="bad samples by what is wrong with them")
    messages: tuple[str, ...] = ()
    rows: IndexFile
    bad_samples: IndexFile

    @property
    def reasons_in_words(self) -> str:
        """What is wrong with the bad samples, most frequent first: `2 image unreadable, 1 malformed record`."""
        return ", ".join(f"{count:,} {reason}" for reason, count in self.reasons.items())


def digest_of(
    source: Source, annotation: AnnotationFile, data: DataConfig, model: ModelGeometry, tokenizer: Tokenizer
) -> str:
    """The name of an index: SHA-256 over all that its rows depend on, 64 hexadecimal digits."""
    identity = {
        "format": FORMAT,
        "annotation": annotation.fingerprint,
        "source": {"name": source.name, "root": source.root, "max_tiles": source.max_dynamic_patch},
        "data": data.model_dump(mode="json", exclude=set(WITHOUT_EFFECT)),
        "tokenizer": tokenizer.sha256,
        "family": model.language.family,
        "tile_size": model.vision.image_size,
        "tokens_per_tile": model.tokens_per_tile,
    }
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
