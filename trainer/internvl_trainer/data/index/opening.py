"""Indexes of all data sets of a stage: found where they are kept, or built and kept."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from internvl_trainer.contract.catalog import ModelGeometry
from internvl_trainer.contract.job import DataConfig
from internvl_trainer.data.errors import DataError
from internvl_trainer.data.index.build import Watch, build
from internvl_trainer.data.index.copy import NodeCopy
from internvl_trainer.data.index.header import IndexHeader, digest_of
from internvl_trainer.data.index.kept import KeptIndexes
from internvl_trainer.data.index.lines import AnnotationFile, open_annotation
from internvl_trainer.data.index.part import Measuring
from internvl_trainer.data.index.processes import Measurer
from internvl_trainer.data.index.rows import MOST_TILES, MOST_TOKENS
from internvl_trainer.data.index.source_index import IndexFiles, SourceIndex, check_budget
from internvl_trainer.data.sources import Source, read_sources
from internvl_trainer.data.tokenizer import Tokenizer
from internvl_trainer.processes.processors import usable_processors
from internvl_trainer.storage import ObjectStore

_log = logging.getLogger(__name__)


def open_indexes(
    data: DataConfig,
    model: ModelGeometry,
    tokenizer: Tokenizer,
    store: ObjectStore,
    cache: Path,
) -> tuple[SourceIndex, ...]:
    """The indexes of a stage's data sets, in their order, found or built as by `find_or_build`.

    Raises:
        MetaError: the meta JSON or the mixture is wrong; says where.
        TooManyBadSamplesError: one of them has more bad samples than `data.max_bad_fraction` of all.
    """
    indexes = find_or_build(read_sources(data, store), data, model, tokenizer, store, cache)
    for index in indexes:
        if bad := index.header.bad:
            _log.warning(
                "data set %s: %d of %d samples %s left out: %s",
                *(index.source.name, bad, len(index), "is" if bad == 1 else "are", index.header.reasons_in_words),
            )
        check_budget(index, data.max_bad_fraction)
    return indexes


def find_or_build(
    sources: Sequence[Source],
    data: DataConfig,
    model: ModelGeometry,
    tokenizer: Tokenizer,
    store: ObjectStore,
    cache: Path,
    *,
    processes: int | None = None,
    watch: Watch = lambda _: None,
) -> tuple[SourceIndex, ...]:
    """The indexes of some data sets: found in the folder `data.index` or in the node's cache, or else built.

    What is built is kept in `data.index`. Of processes that need the same index one builds it, if they share a cache;
    nodes that build the same one at once keep the first, and all use that.

    Args:
        cache: folder of this node, for copies of indexes and of annotation files.
        processes: how many measure samples at once; default: one for each processor that this process may use.
        watch: told of progress, part by part.

    Raises:
        MetaError: an annotation file does not exist.
        DataError: one holds no sample, or was changed meanwhile; or a pack holds more than a row can say.
        MeasuringProcessDiedError: a process was killed.
        StoreError: the store did not answer.
    """
    _check_limits(data)
    measuring = Measuring(data, model, tokenizer, store, cache)
    kept = KeptIndexes(data.index, store) if data.index else None
    with Measurer(measuring, processes=processes or usable_processors()) as measurer:
        maker = _Maker(measuring, kept, measurer, watch)
        return tuple(maker.open(source) for source in sources)


def _check_limits(data: DataConfig) -> None:
    for name, value, most in (
        ("pack_tokens", data.pack_tokens, MOST_TOKENS),
        ("pack_tiles", data.pack_tiles, MOST_TILES),
    ):
        if value > most:
            raise DataError(f"data.{name} is {value:,}; an index can say at most {most:,} of a sample")


class _Maker(NamedTuple):
    measuring: Measuring
    kept: KeptIndexes | None
    measurer: Measurer
    watch: Watch

    def open(self, source: Source) -> SourceIndex:
        rules = self.measuring
        annotation = open_annotation(source.annotation, rules.store, rules.cache)
        digest = digest_of(source, annotation, rules.data, rules.model, rules.tokenizer)
        copy = NodeCopy(rules.cache, digest)
        with copy.lock():
            header = self._find(digest, copy)
            built = header is None
            if header is None:
                header = self._build(digest, source, annotation, copy)
        return SourceIndex(source, header, IndexFiles(copy.rows, copy.bad_samples), annotation, built=built)

    def _find(self, digest: str, copy: NodeCopy) -> IndexHeader | None:
        held = copy.header()
        if self.kept is None:
            return held
        kept = self.kept.header(digest)
        if kept is None:
            return held and self._keep(held, copy)
        if kept == held or self.kept.fetch(kept, copy):
            return kept
        self.kept.forget(digest)
        return None

    def _build(self, digest: str, source: Source, annotation: AnnotationFile, copy: NodeCopy) -> IndexHeader:
        parts = self.measurer.measure(source, annotation)
        header = build(digest, source, annotation.size, parts, *copy.unfinished(), self.watch)
        if not copy.finish(header):
            raise _unreadable(digest, copy)
        return self._keep(header, copy) if self.kept else header

    def _keep(self, header: IndexHeader, copy: NodeCopy) -> IndexHeader:
        """Keep what the node has; where another node was first, take what that one has kept."""
        assert self.kept is not None
        kept = self.kept.keep(header, copy)
        if kept != header and not self.kept.fetch(kept, copy):
            raise _unreadable(header.digest, copy)
        return kept


def _unreadable(digest: str, copy: NodeCopy) -> DataError:
    return DataError(
        f"index {digest}: what was written to {copy.rows.parent} is not what is read there; check the disk"
    )
