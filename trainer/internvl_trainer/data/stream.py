"""PackStream: the global sequence of packs that a stage trains on.

Shape legend: S tokens of a pack, N tiles, H and W a tile's height and width, C = 3 colours.
"""

import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from internvl_trainer.contract.catalog import ModelGeometry
from internvl_trainer.contract.job import DataConfig
from internvl_trainer.data import seeding
from internvl_trainer.data.conversations import IGNORED
from internvl_trainer.data.errors import MetaError
from internvl_trainer.data.index import GOOD, open_indexes
from internvl_trainer.data.loss_weights import LossReweighting, token_weights
from internvl_trainer.data.media import MediaReader
from internvl_trainer.data.packing import EpochPlan, plan_epoch
from internvl_trainer.data.samples import Sample, SampleReader
from internvl_trainer.data.seeding import Purpose
from internvl_trainer.data.sources import draws_of_epoch
from internvl_trainer.data.tokenizer import Tokenizer
from internvl_trainer.storage import ObjectStore

_log = logging.getLogger(__name__)

_READERS = 4
"""Threads that fetch and decode the images of one pack."""


@dataclass(frozen=True, eq=False)
class Pack:
    """What one micro-batch trains on: whole samples, one after the other, each a segment of its own."""

    index: int
    """Position in the global order."""
    sample_ids: tuple[str, ...]
    tokens_S: np.ndarray
    """int64[S]: input ids, `<IMG_CONTEXT>` placeholders inside."""
    labels_S: np.ndarray
    """int64[S]: the token to predict at each position, shifted inside its segment; -100 where none is learned."""
    weights_S: np.ndarray
    """float32[S]: loss weight of each position, 0 where the label is -100."""
    cu_seqlens: np.ndarray
    """int32[segments + 1]: where segments begin and end."""
    tiles_NHWC: np.ndarray | None
    """uint8[N, tile, tile, 3] in the order of the placeholders; None when asked for without pixels."""
    tile_count: int
    """N, known without pixels; 0 for a pack of text."""


class _Epoch(NamedTuple):
    """One epoch's draws, as (data set, sample) pairs, and their packs."""

    number: int
    source: np.ndarray
    sample: np.ndarray
    plan: EpochPlan


class PackStream:
    """Packs by number. Pack i is a pure function of the configuration and the data, whatever was asked for before.

    Building one reads the meta JSON, the tokenizer and every annotation file. Safe to use from several threads, and
    by several processes with one cache folder.

    Args:
        data: what to train on, and the limits of a pack.
        model: gives tile size, visual tokens per tile, template family and vocabulary.
        loss_reweighting: token, sample or square.
        store: where the URIs are read from.
        cache: node-local folder for copies of remote files.

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
    ) -> None:
        self._data = data
        self._mode: LossReweighting = loss_reweighting
        self.tokenizer = Tokenizer.load(data.tokenizer, store, family=model.language.family)
        self._reader = SampleReader(data, model, self.tokenizer, MediaReader(store))
        self.indexes = open_indexes(data, model, self.tokenizer, store, cache)
        self._good = [np.flatnonzero(index.rows["reason"] == GOOD) for index in self.indexes]
        self._epochs: list[_Epoch] = []
        self._lock = threading.Lock()

    def packs_per_epoch(self, epoch: int) -> int:
        """How many packs an epoch (0-based) has. It varies a little, as every epoch has an order of its own."""
        return self._epoch(epoch).plan.packs

    def pack(self, index: int, *, with_tiles: bool = True) -> Pack:
        """Pack number `index` of the global order, which goes on through all epochs.

        Raises:
            BadSampleError: an image is missing, damaged or of another size than its record says.
            StoreError: the store did not answer.
        """
        epoch, number = self._locate(index)
        draws = epoch.plan.draws(number)
        samples = [self._sample(epoch, draw) for draw in draws]
        tiles = self._tiles(epoch, draws, samples) if with_tiles else None
        return _assemble(index, samples, self._mode, tiles)

    def _sample(self, epoch: _Epoch, draw: int) -> Sample:
        index = self.indexes[epoch.source[draw]]
        return self._reader.encode(index.record(epoch.sample[draw]), index.source)

    def _tiles(self, epoch: _Epoch, draws: np.ndarray, samples: list[Sample]) -> np.ndarray:
        def load(draw: int, sample: Sample) -> np.ndarray:
            key = (self._data.seed, Purpose.JPEG, epoch.number, int(draw))
            return self._reader.load_tiles(sample, key)

        return np.concatenate(list(self._readers.map(load, draws, samples)))

    @cached_property
    def _readers(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(_READERS, thread_name_prefix="images")

    def _locate(self, index: int) -> tuple[_Epoch, int]:
        if index < 0:
            raise IndexError(f"pack {index} does not exist; packs are numbered from 0")
        number = 0
        while index >= (packs := self.packs_per_epoch(number)):
            index -= packs
            number += 1
        return self._epoch(number), index

    def _epoch(self, number: int) -> _Epoch:
        with self._lock:
            while len(self._epochs) <= number:
                self._epochs.append(self._plan(len(self._epochs)))
            return self._epochs[number]

    def _plan(self, epoch: int) -> _Epoch:
        seed = self._data.seed
        chosen = [
            good[
                draws_of_epoch(
                    len(good), index.source.repeat_time, key=(seed, Purpose.REPEAT, index.source.number), epoch=epoch
                )
            ]
            for index, good in zip(self.indexes, self._good, strict=True)
        ]
        source = np.repeat(np.arange(len(chosen)), [len(draws) for draws in chosen])
        if not len(source):
            raise MetaError(f"meta {self._data.meta}: with these repeat_time values an epoch has no sample; raise one")
        rows = np.concatenate([index.rows[draws] for index, draws in zip(self.indexes, chosen, strict=True)])
        order = seeding.permutation(len(source), seed, Purpose.ORDER, epoch)
        plan = plan_epoch(order, rows["tokens"].astype(np.int64), rows["tiles"].astype(np.int64), self._reader.limits)
        return _Epoch(epoch, source, np.concatenate(chosen), plan)


def _assemble(index: int, samples: list[Sample], mode: LossReweighting, tiles_NHWC: np.ndarray | None) -> Pack:
    labels, weights = [], []
    for sample in samples:
        # Position t predicts token t + 1 of its own segment; a segment's last position predicts nothing.
        label_s = np.asarray([*sample.encoded.labels[1:], IGNORED], dtype=np.int64)
        weight = token_weights(sample.encoded.supervised, mode)
        labels.append(label_s)
        weights.append(np.where(label_s == IGNORED, 0.0, weight).astype(np.float32))
    lengths = [len(sample.encoded.tokens) for sample in samples]
    return Pack(
        index=index,
        sample_ids=tuple(sample.record.name for sample in samples),
        tokens_S=np.concatenate([np.asarray(sample.encoded.tokens, dtype=np.int64) for sample in samples]),
        labels_S=np.concatenate(labels),
        weights_S=np.concatenate(weights),
        cu_seqlens=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32),
        tiles_NHWC=tiles_NHWC,
        tile_count=sum(sum(sample.tiles) for sample in samples),
    )
