"""A report from opened indexes: one pass over their rows, and the packing of some windows."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from internvl_trainer.contract.job import DataConfig
from internvl_trainer.curation.estimate import estimate_fill
from internvl_trainer.curation.report import summary
from internvl_trainer.curation.report.count import Counts, count
from internvl_trainer.curation.report.document import MixtureReport
from internvl_trainer.curation.report.summary import Counted
from internvl_trainer.data.index import GOOD, REASONS
from internvl_trainer.data.order import RepeatMode, draws_of
from internvl_trainer.data.packing import PackLimits
from internvl_trainer.data.sources import Source


class Indexed(Protocol):
    """What a report reads of an index."""

    @property
    def source(self) -> Source: ...
    @property
    def rows(self) -> np.ndarray: ...


def compose(
    indexes: Sequence[Indexed], data: DataConfig, *, model: str, global_batch: int | None, replicas: int
) -> MixtureReport:
    """What the mixture consists of.

    Raises:
        MetaError: an epoch would draw nothing, or `repeat_mode` cannot do what a repeat asks for.
    """
    limits = PackLimits(data.pack_tokens, data.pack_tiles)
    counted = [_counted(index, data, limits) for index in indexes]
    parts, epoch = summary.cut(counted), summary.total([each.epoch for each in counted])
    return MixtureReport(
        data=data.meta or "the mixture",
        model=model,
        pack_tokens=limits.tokens,
        pack_tiles=limits.tiles,
        total=parts.total,
        sources=parts.sources,
        kinds=parts.kinds,
        lengths=summary.lengths(epoch),
        tiles=summary.tiles(epoch),
        fill=estimate_fill(
            [index.rows for index in indexes],
            [index.source for index in indexes],
            data,
            global_batch=global_batch,
            replicas=replicas,
        ),
    )


def of_epoch(rows: np.ndarray, raw: Counts, repeat: float, mode: RepeatMode, limits: PackLimits) -> Counts:
    """What one epoch draws of a data set, `raw` being the count of all its rows.

    A seeded part is taken as its average over the epochs; the released trainer's first rows are counted.
    """
    if not len(rows):
        return raw
    draws = draws_of(len(rows), repeat, mode)
    if mode == "exact":
        return raw.scaled(draws / len(rows))
    passes, first = divmod(draws, len(rows))
    return raw.scaled(passes) + count(rows[:first], limits)


def _counted(index: Indexed, data: DataConfig, limits: PackLimits) -> Counted:
    raw = count(index.rows, limits)
    bad = {
        REASONS[code].reason: int(raw.reasons_R[code])
        for code in np.flatnonzero(raw.reasons_R).tolist()
        if code != GOOD
    }
    source = index.source
    return Counted(
        source=source,
        n_max=source.max_dynamic_patch or data.max_tiles,
        raw=raw,
        epoch=of_epoch(index.rows, raw, source.repeat_time, data.repeat_mode, limits),
        bad=dict(sorted(bad.items(), key=lambda item: -item[1])),
    )
