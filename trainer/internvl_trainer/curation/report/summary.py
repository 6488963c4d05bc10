"""From counted indexes to the report. Pure."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from internvl_trainer.curation.report.count import Counts
from internvl_trainer.curation.report.document import KINDS, Amount, Histogram, Part, SourcePart
from internvl_trainer.data.sources import Source

LENGTH_BINS = 32
"""Bins of the histogram of tokens."""


class Counted(NamedTuple):
    """A data set and what it holds: all of it, and what an epoch draws of it."""

    source: Source
    n_max: int
    raw: Counts
    epoch: Counts
    bad: Mapping[str, int]


class Parts(NamedTuple):
    """The same mixture, cut in three ways."""

    total: Part
    sources: list[SourcePart]
    kinds: dict[str, Part]


def cut(counted: Sequence[Counted]) -> Parts:
    """Shares of each data set and of each kind in samples, tokens and tiles."""
    raw, epoch = total([each.raw for each in counted]), total([each.epoch for each in counted])
    all_raw, all_epoch = _amount(raw), _amount(epoch)
    return Parts(
        total=_part(all_raw, all_epoch, all_raw, all_epoch),
        sources=[_source_part(each, all_raw, all_epoch) for each in counted],
        kinds={
            name: _part(_amount(raw, kind), _amount(epoch, kind), all_raw, all_epoch) for kind, name in enumerate(KINDS)
        },
    )


def total(counts: Sequence[Counts]) -> Counts:
    """Of all data sets."""
    first, *others = counts
    return sum(others, start=first)


def lengths(epoch: Counts) -> Histogram:
    """Samples of an epoch by tokens, in equal bins up to what a pack holds."""
    most = epoch.lengths_KL.shape[1] - 1
    width = -(-most // LENGTH_BINS)
    return _histogram(epoch.lengths_KL, list(range(1, most + width + 1, width)))


def tiles(epoch: Counts) -> Histogram:
    """Samples of an epoch by tiles, one bin for each number."""
    return _histogram(epoch.tiles_KT, list(range(epoch.tiles_KT.shape[1] + 1)))


def _source_part(counted: Counted, all_raw: Amount, all_epoch: Amount) -> SourcePart:
    raw = _amount(counted.raw)
    part = _part(raw, _amount(counted.epoch), all_raw, all_epoch)
    return SourcePart(
        **dict(part),
        name=counted.source.name,
        n_max=counted.n_max,
        repeat=counted.source.repeat_time,
        augment=counted.source.data_augment,
        rows=counted.raw.rows,
        bad=dict(counted.bad),
        kinds=dict(zip(KINDS, map(int, counted.raw.samples), strict=True)),
        mean_tokens=raw.tokens / raw.samples if raw.samples else 0.0,
        mean_tiles=raw.tiles / raw.samples if raw.samples else 0.0,
    )


def _part(raw: Amount, epoch: Amount, all_raw: Amount, all_epoch: Amount) -> Part:
    return Part(raw=raw, epoch=epoch, raw_share=raw.share(all_raw), epoch_share=epoch.share(all_epoch))


def _amount(counts: Counts, kind: int | None = None) -> Amount:
    chosen = slice(None) if kind is None else kind
    samples, tokens, tiles = (float(each[chosen].sum()) for each in (counts.samples, counts.tokens, counts.tiles))
    return Amount(samples=samples, tokens=tokens, tiles=tiles)


def _histogram(counts_KV: np.ndarray, edges: list[int]) -> Histogram:
    """Of counts by kind and value; `edges` lie one beyond the largest value at the end, and reach down to the least."""
    binned_KB = np.add.reduceat(
        np.pad(counts_KV, ((0, 0), (0, edges[-1] - counts_KV.shape[1]))), edges[:-1], axis=1
    )  # fmt: skip
    by_value = counts_KV.sum(axis=0)
    samples, reached = by_value.sum(), np.cumsum(by_value)
    present = np.flatnonzero(by_value)
    return Histogram(
        edges=edges,
        counts=dict(zip(KINDS, binned_KB.tolist(), strict=True)),
        mean=float(by_value @ np.arange(len(by_value)) / samples) if samples else 0.0,
        median=_quantile(reached, 0.5),
        p95=_quantile(reached, 0.95),
        largest=int(present[-1]) if len(present) else 0,
    )


def _quantile(reached: np.ndarray, share: float) -> int:
    """The least value that so large a share of the samples does not exceed."""
    return int(np.searchsorted(reached, share * reached[-1])) if reached[-1] else 0
