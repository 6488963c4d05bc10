"""PackStream: the global sequence of packs that a stage trains on.

Shapes: N tiles, H and W a tile's height and width, C = 3 colours.
"""

from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from internvl_trainer.contract.base import Component
from internvl_trainer.contract.catalog import ModelGeometry
from internvl_trainer.contract.data_position import DataPosition
from internvl_trainer.contract.job import DataConfig
from internvl_trainer.data.errors import BadSampleError, SampleChangedError
from internvl_trainer.data.index import SourceIndex, open_indexes
from internvl_trainer.data.loss_weights import LossReweighting
from internvl_trainer.data.media import MediaReader
from internvl_trainer.data.pack import LeftOut, Pack, assemble, blank
from internvl_trainer.data.packing import PackCost
from internvl_trainer.data.samples import Sample, SampleReader
from internvl_trainer.data.seeding import Purpose
from internvl_trainer.data.tokenizer import Tokenizer
from internvl_trainer.data.walk import PackKey, Walk
from internvl_trainer.storage import ObjectStore

_THREADS = 4
"""Threads that fetch and decode the media of one pack."""


class PackLoader:
    """Turns the key of a pack into the pack. Safe to use from several threads; goes to other processes by pickle.

    Args:
        indexes: of the data sets, in their order.
        data, model: as for PackStream.
        tokenizer: of `data`.
        loss_reweighting: token, sample or square.
        media: where images and videos are read from.
    """

    def __init__(
        self,
        indexes: Sequence[SourceIndex],
        data: DataConfig,
        model: ModelGeometry,
        tokenizer: Tokenizer,
        loss_reweighting: LossReweighting,
        media: MediaReader,
    ) -> None:
        self._made_of = (tuple(indexes), data, model, tokenizer, loss_reweighting, media)
        self._indexes = tuple(indexes)
        self._reader = SampleReader(data, model, tokenizer, media)
        self._mode: LossReweighting = loss_reweighting
        self._seed = data.seed
        self._side = model.vision.image_size

    def __reduce__(self) -> tuple[Any, ...]:
        return PackLoader, self._made_of

    def load(self, key: PackKey, *, with_tiles: bool = True) -> Pack:
        """The pack of a key, without those of its samples that cannot be read; `Pack.skipped` says which and why.

        Raises:
            DataError: an annotation file is not the one that was indexed.
            StoreError: the store did not answer.
        """
        places = range(len(key.row))
        encoded = list(self._threads.map(lambda place: self._encode(key, place), places))
        counts = [0 if isinstance(each, BadSampleError) else sum(each.tiles) for each in encoded]
        ends = np.cumsum(counts)
        tiles_NHWC = np.empty((int(ends[-1]), self._side, self._side, 3), dtype=np.uint8) if with_tiles else None

        def fill(place: int) -> Sample | BadSampleError:
            sample = encoded[place]
            if tiles_NHWC is None or not counts[place] or isinstance(sample, BadSampleError):
                return sample
            return self._fill(sample, key, place, tiles_NHWC[ends[place] - counts[place] : ends[place]])

        outcomes = list(self._threads.map(fill, places))
        bad = {place: fault for place, fault in enumerate(outcomes) if isinstance(fault, BadSampleError)}
        good = [sample for sample in outcomes if isinstance(sample, Sample)]
        left_out: LeftOut = (tuple(bad), tuple(bad.values()))
        if not good:
            return blank(key.number, self._side if with_tiles else None, left_out)
        if tiles_NHWC is not None and any(counts[place] for place in bad):
            tiles_NHWC = tiles_NHWC[np.repeat([place not in bad for place in places], counts)]
        return assemble(key.number, good, self._mode, tiles_NHWC, left_out)

    def _encode(self, key: PackKey, place: int) -> Sample | BadSampleError:
        index, row = self._indexes[int(key.source[place])], int(key.row[place])
        try:
            sample = self._reader.encode(index.record(row), index.source)
            _check_unchanged(sample, index.rows[row])
        except BadSampleError as fault:
            return fault
        return sample

    def _fill(self, sample: Sample, key: PackKey, place: int, out_NHWC: np.ndarray) -> Sample | BadSampleError:
        draws = (self._seed, Purpose.JPEG, key.epoch, int(key.source[place]), int(key.draw[place]))
        try:
            self._reader.load_tiles(sample, draws, out_NHWC)
        except BadSampleError as fault:
            return fault
        return sample

    @cached_property
    def _threads(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(_THREADS, thread_name_prefix="media")


def _check_unchanged(sample: Sample, row: np.void) -> None:
    """A pack was formed by what the index says of its samples; one that has grown since would overfill it.

    Raises:
        SampleChangedError: the sample has another length now.
    """
    then, now = (int(row["tiles"]), int(row["tokens"])), (sum(sample.tiles), len(sample.encoded.tokens))
    if then != now:
        counted, found = (f"{tiles} tile{'s' * (tiles != 1)} and {tokens} tokens" for tiles, tokens in (then, now))
        raise SampleChangedError(
            sample.record.name,
            f"{counted} when it was indexed, and {found} now: an image or video was replaced; give new ones new names",
        )


class PackStream:
    """The packs of a stage, by their keys: a pack is a pure function of the configuration, the data and its key.

    Building one reads the meta JSON, the tokenizer and the index of every data set, and builds the indexes that are
    not there.

    Args:
        data: what to train on, and the limits of a pack.
        model: gives tile size, visual tokens per tile, template family and vocabulary.
        loss_reweighting: token, sample or square.
        store: where the URIs are read from.
        cache: node-local folder for indexes and annotation files; processes of a node share it.
        trainable: what the stage trains, by which the cost of a pack is judged.

    Attributes:
        loader: loads packs; what worker processes need of the stream.

    Raises:
        DataError: meta JSON, tokenizer or data are unusable; says which and why.
        StoreError: the store did not answer.
    """

    def __init__(
        self,
        data: DataConfig,
        *,
        model: ModelGeometry,
        loss_reweighting: LossReweighting,
        store: ObjectStore,
        cache: Path,
        trainable: Collection[Component] = tuple(Component),
    ) -> None:
        self.tokenizer = Tokenizer.load(data.tokenizer, store, family=model.language.family)
        self.indexes = open_indexes(data, model, self.tokenizer, store, cache)
        self._walk = Walk.over(self.indexes, data, PackCost.of_model(model, trainable))
        media = MediaReader(store)
        self.loader = PackLoader(self.indexes, data, model, self.tokenizer, loss_reweighting, media)

    def __str__(self) -> str:
        built, count = sum(index.built for index in self.indexes), len(self.indexes)
        how = "found" if not built else "built" if built == count else f"built for {built}, found for the others"
        return f"{sum(map(len, self.indexes)):,} samples in {count} data set{'s' * (count > 1)}, indexes {how}"

    def batches(self, position: DataPosition, global_batch: int) -> Iterator[tuple[tuple[PackKey, ...], DataPosition]]:
        """The keys of each global batch from a position on, without end, and where the data stands after it.

        Rank r of R data-parallel ranks takes keys[r::R]: their costs are nearly equal for any R.
        """
        return self._walk.batches(position, global_batch)

    def load(self, key: PackKey, *, with_tiles: bool = True) -> Pack:
        """See `PackLoader.load`."""
        return self.loader.load(key, with_tiles=with_tiles)
