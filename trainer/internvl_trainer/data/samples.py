"""One sample on its way from a record to token ids and tiles: measured for the index, encoded and loaded for a pack.

Shapes: N tiles, H and W a tile's height and width, C = 3 colours.
"""

from typing import NamedTuple

import numpy as np

from internvl_trainer.contract.catalog import ModelGeometry
from internvl_trainer.contract.job import DataConfig
from internvl_trainer.data import images
from internvl_trainer.data.conversations import ConversationEncoder, Encoded
from internvl_trainer.data.errors import TokenizerError, TooManyTilesError
from internvl_trainer.data.media import MediaReader
from internvl_trainer.data.packing import PackLimits
from internvl_trainer.data.records import Kind, Record
from internvl_trainer.data.sources import Source
from internvl_trainer.data.tokenizer import Tokenizer


class Measured(NamedTuple):
    """What an index knows of a sample that can be trained on."""

    tokens: int
    tiles: int
    kind: Kind


class Sample(NamedTuple):
    """A sample whose text is encoded; its pixels are yet to be loaded."""

    record: Record
    source: Source
    encoded: Encoded
    tiles: list[int]
    """Of each of its images."""


class SampleReader:
    """Turns records into token ids and tiles, for one data configuration and one model.

    Everything it returns is a function of the record, its data set and the configuration. Safe to use from several
    threads.

    Raises:
        TokenizerError: the tokenizer has more ids than the model has embedding rows.
    """

    def __init__(self, data: DataConfig, model: ModelGeometry, tokenizer: Tokenizer, media: MediaReader) -> None:
        _check_vocabulary(tokenizer, model, data.tokenizer)
        self.limits = PackLimits(data.pack_tokens, data.pack_tiles)
        self._rules = images.Tiling(model.vision.image_size, data.max_tiles, data.thumbnail)
        self._media = media
        self._encoder = ConversationEncoder(tokenizer, tokens_per_tile=model.tokens_per_tile)

    def measure(self, record: Record, source: Source) -> Measured:
        """Tokens and tiles of a sample, without decoding its pixels.

        Raises:
            BadSampleError: it cannot be trained on.
            StoreError: the store did not answer.
        """
        sample = self.encode(record, source)
        tiles = sum(sample.tiles)
        if tiles > self.limits.tiles:
            raise TooManyTilesError(
                record.name, f"{tiles} tiles, a pack holds {self.limits.tiles}; lower max_dynamic_patch for it"
            )
        return Measured(len(sample.encoded.tokens), tiles, record.kind)

    def encode(self, record: Record, source: Source) -> Sample:
        """Token ids and labels of a sample, and how many tiles each of its images has; raises like `measure`."""
        tiles = images.tile_counts(record, source, self._rules, self._media)
        encoded = self._encoder.encode(record, tiles, max_tokens=self.limits.tokens)
        return Sample(record, source, encoded, tiles)

    def load_tiles(self, sample: Sample, key: tuple[int, ...]) -> np.ndarray:
        """All tiles of a sample, uint8[N, H, W, C]; `key` seeds what is drawn for them.

        Raises:
            BadSampleError: an image is missing, damaged or of another size than its record says.
            StoreError: the store did not answer.
        """
        return images.load_tiles(sample.record, sample.source, sample.tiles, self._rules, self._media, key)


def _check_vocabulary(tokenizer: Tokenizer, model: ModelGeometry, uri: str) -> None:
    if tokenizer.vocab_size > model.language.vocab_size:
        raise TokenizerError(
            f"tokenizer {uri} has ids up to {tokenizer.vocab_size - 1}, but model {model.name} has "
            f"{model.language.vocab_size} embedding rows; use the tokenizer that belongs to the model"
        )
