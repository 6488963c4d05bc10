"""One sample on its way from a record to token ids and tiles: measured for the index, encoded and loaded for a pack.

Shapes: N tiles, H and W a tile's height and width, C = 3 colours.
"""

from typing import NamedTuple

import numpy as np

from internvl_trainer.contract.catalog import ModelGeometry
from internvl_trainer.contract.job import DataConfig
from internvl_trainer.data import boxes, images
from internvl_trainer.data.conversations import ConversationEncoder, Encoded
from internvl_trainer.data.errors import TokenizerError, TooManyTilesError
from internvl_trainer.data.media import MediaReader
from internvl_trainer.data.packing import PackLimits
from internvl_trainer.data.records import Kind, Record
from internvl_trainer.data.sources import Source
from internvl_trainer.data.tokenizer import Tokenizer
from internvl_trainer.data.video.frames import Sampling
from internvl_trainer.data.video.reader import VideoReader


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
    """Of each of its images; one for each frame of its video."""


class SampleReader:
    """Turns records into token ids and tiles, for one data configuration and one model.

    Everything it returns is a function of the record, its data set and the configuration. Safe to use from several
    threads.

    Raises:
        TokenizerError: the tokenizer has more ids than the model has embedding rows.
    """

    def __init__(self, data: DataConfig, model: ModelGeometry, tokenizer: Tokenizer, media: MediaReader) -> None:
        check_vocabulary(tokenizer, model, data.tokenizer)
        self.limits = PackLimits(data.pack_tokens, data.pack_tiles)
        self._rules = images.Tiling(model.vision.image_size, data.max_tiles, data.thumbnail)
        self._media = media
        sampling = Sampling(data.frame_sampling, data.min_frames, data.max_frames)
        self._videos = VideoReader(sampling, model.vision.image_size, media)
        self._encoder = ConversationEncoder(
            tokenizer, tokens_per_tile=model.tokens_per_tile, template=data.template
        )  # fmt: skip

    def measure(self, record: Record, source: Source) -> Measured:
        """Tokens and tiles of a sample, without decoding its pixels.

        No file is opened for text, for images whose sizes the record states, and for videos whose frames are not
        counted by seconds.

        Raises:
            BadSampleError: it cannot be trained on.
            StoreError: the store did not answer.
        """
        sample = self.encode(record, source)
        return Measured(len(sample.encoded.tokens), sum(sample.tiles), record.kind)

    def encode(self, record: Record, source: Source) -> Sample:
        """Token ids and labels of a sample, and how many tiles each of its images has; raises like `measure`."""
        boxes.check(record)
        tiles = self._tiles(record, source)
        if (total := sum(tiles)) > self.limits.tiles:
            setting = "max_dynamic_patch" if record.video is None else "max_frames"
            raise TooManyTilesError(
                record.name, f"{total} tiles, a pack holds {self.limits.tiles}; lower {setting} for it"
            )
        encoded = self._encoder.encode(record, tiles, max_tokens=self.limits.tokens)
        return Sample(record, source, encoded, tiles)

    def load_tiles(self, sample: Sample, key: tuple[int, ...], out: np.ndarray | None = None) -> np.ndarray:
        """All tiles of a sample, uint8[N, H, W, C], written to `out` if given.

        Args:
            key: seeds what is drawn for them: JPEG qualities of images, frames of a video.

        Raises:
            BadSampleError: an image or video is missing, damaged or of another size than was measured.
            StoreError: the store did not answer.
        """
        record, source, _, tiles = sample
        if record.video is not None:
            return self._videos.load_tiles(record, source, len(tiles), key, out)
        return images.load_tiles(record, source, tiles, self._rules, self._media, key, out)

    def _tiles(self, record: Record, source: Source) -> list[int]:
        if record.video is not None:
            return [1] * self._videos.count(record, source)
        return images.tile_counts(record, source, self._rules, self._media)


def check_vocabulary(tokenizer: Tokenizer, model: ModelGeometry, uri: str) -> None:
    """Refuse a tokenizer of another model.

    Raises:
        TokenizerError: it has more ids than the model has embedding rows.
    """
    if tokenizer.vocab_size > model.language.vocab_size:
        raise TokenizerError(
            f"tokenizer {uri} has ids up to {tokenizer.vocab_size - 1}, but model {model.name} has "
            f"{model.language.vocab_size} embedding rows; use the tokenizer that belongs to the model"
        )
