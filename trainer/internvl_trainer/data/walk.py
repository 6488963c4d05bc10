"""The walk through a stage's data: from a position to the next global batch of packs, as keys that say what to load.

A window of an epoch's order is packed on its own, so a walk can begin anywhere by packing one window. It decides from
lengths alone and reads no sample.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import NamedTuple, Protocol, Self

import numpy as np

from internvl_trainer.contract.data_position import DataPosition
from internvl_trainer.contract.job import DataConfig
from internvl_trainer.data import seeding
from internvl_trainer.data.errors import DataError, MetaError
from internvl_trainer.data.order import Drawn, EpochOrder, RepeatMode
from internvl_trainer.data.packing import PackCost, PackLimits, arrange, form_packs
from internvl_trainer.data.seeding import Purpose
from internvl_trainer.data.sources import Source

WINDOW = 4096
"""Draws that are packed together: enough to fill packs to within a percent, few enough to pack in an instant."""


class EmptyEpochError(DataError):
    """An epoch holds no sample that can be trained on."""


class StalePositionError(DataError):
    """A position does not exist in this data: it comes from other data sets, limits or repeats."""


class PackKey(NamedTuple):
    """What a pack holds: enough to load it anywhere."""

    number: int
    """Its place in the global order, before the global batch is arranged for balance."""
    epoch: int
    source: np.ndarray
    """int32[n]: data set of each of its samples."""
    row: np.ndarray
    """int64[n]: row of each sample in its data set's index."""
    draw: np.ndarray
    """int64[n]: which draw of the epoch each sample is; the same row drawn twice has two."""


class IndexedSource(Protocol):
    """What a walk reads of a data set's index."""

    @property
    def source(self) -> Source: ...
    @property
    def rows(self) -> np.ndarray: ...


class WindowPack(NamedTuple):
    """One pack of a window, with what training on it costs."""

    drawn: Drawn
    tokens: int
    tiles: int
    cost: int


class Walk:
    """The global order of packs over the indexed rows of some data sets.

    Args:
        rows: of each data set, a structured array with the fields `tokens`, `tiles` and `reason`; a row whose reason is
            not 0 is drawn like any other, and left out of packs.
        repeats: passes over each data set in one epoch.
        limits: of one pack.
        cost: by which the packs of a global batch are balanced.
        repeat_mode: what a fraction of a repeat means.
        seed: of the stage's data.
        window: draws that are packed together.

    Raises:
        MetaError: an epoch would draw nothing, or `repeat_mode` cannot do what `repeats` ask for.
    """

    def __init__(
        self,
        rows: Sequence[np.ndarray],
        repeats: Sequence[float],
        *,
        limits: PackLimits,
        cost: PackCost,
        repeat_mode: RepeatMode,
        seed: int,
        window: int = WINDOW,
    ) -> None:
        self._rows = tuple(rows)
        self._repeats = tuple(repeats)
        self.limits = limits
        self._cost = cost
        self._mode: RepeatMode = repeat_mode
        self._seed = seed
        self._window = window
        self._order = lru_cache(maxsize=2)(self._make_order)
        self._packs = lru_cache(maxsize=2)(self._pack_window)
        # Each epoch draws equally many rows.
        self.draws = self._order(0).draws
        if not self.draws:
            raise MetaError("with these repeats an epoch has no sample; raise one, or add data")
        self.windows = -(-self.draws // window)

    @classmethod
    def over(cls, indexes: Sequence[IndexedSource], data: DataConfig, cost: PackCost) -> Self:
        """The walk of a stage through the indexes of its data sets, in the order of its configuration."""
        return cls(
            [index.rows for index in indexes],
            [index.source.repeat_time for index in indexes],
            limits=PackLimits(data.pack_tokens, data.pack_tiles),
            cost=cost,
            repeat_mode=data.repeat_mode,
            seed=data.seed,
        )

    def batch(self, position: DataPosition, size: int) -> tuple[tuple[PackKey, ...], DataPosition]:
        """The global batch at a position, and the position behind it.

        The batch holds the next `size` packs, arranged so that for each R that divides `size` rank r of R, which takes
        keys[r::R], gets about as much work as the others.

        Raises:
            EmptyEpochError: a whole epoch has no sample that can be trained on.
            StalePositionError: the position lies outside this data.
        """
        taken = list(islice(self._from(position), size))
        order = arrange([cost for _, cost, _ in taken])
        return tuple(taken[place][0] for place in order), taken[-1][2]

    def batches(self, position: DataPosition, size: int) -> Iterator[tuple[tuple[PackKey, ...], DataPosition]]:
        """All global batches from a position on, without end, each with the position behind it; raises like `batch`."""
        while True:
            keys, position = self.batch(position, size)
            yield keys, position

    def window(self, epoch: int, number: int) -> tuple[WindowPack, ...]:
        """The packs of one window of an epoch, in their order."""
        return self._packs(epoch, number)

    def draws_of(self, number: int) -> range:
        """Which places of an epoch's order a window holds."""
        return range(number * self._window, min((number + 1) * self._window, self.draws))

    def _from(self, start: DataPosition) -> Iterator[tuple[PackKey, int, DataPosition]]:
        """Packs from a position on, each with its cost and the position behind it."""
        epoch, window, taken = start.epoch, start.window, start.taken
        if window >= self.windows or taken > len(self._packs(epoch, window)):
            raise StalePositionError(
                f"epoch {epoch} has no pack {taken} in window {window}, where the first {start.packs} packs end; "
                "go on with the data sets, repeats and limits that the stage began with"
            )
        packs, samples = start.packs, start.samples
        empty = 0
        while True:
            found = self._packs(epoch, window)
            empty = (empty if window else 0) + (not found)
            if empty == self.windows:
                raise EmptyEpochError(f"epoch {epoch} has no sample that can be trained on; check the data")
            for pack in found[taken:]:
                taken += 1
                at = (epoch, window, taken) if taken < len(found) else self._next_window(epoch, window)
                key = PackKey(packs, epoch, *pack.drawn)
                packs, samples = packs + 1, samples + len(pack.drawn.row)
                after = DataPosition(
                    packs=packs, epoch=at[0], window=at[1], taken=at[2], samples=samples, skipped=start.skipped
                )
                yield key, pack.cost, after
            epoch, window, taken = self._next_window(epoch, window)

    def _next_window(self, epoch: int, window: int) -> tuple[int, int, int]:
        return (epoch, window + 1, 0) if window + 1 < self.windows else (epoch + 1, 0, 0)

    def _make_order(self, epoch: int) -> EpochOrder:
        sizes = [len(rows) for rows in self._rows]
        return EpochOrder(sizes, self._repeats, self._mode, seed=self._seed, epoch=epoch)

    def _pack_window(self, epoch: int, window: int) -> tuple[WindowPack, ...]:
        drawn = self._order(epoch).at(np.asarray(self.draws_of(window), dtype=np.int64))
        tokens, tiles, reason = self._lengths(drawn.source, drawn.row)
        good = np.flatnonzero(reason == 0)
        formed = form_packs(tokens[good].tolist(), tiles[good].tolist(), self.limits)
        shuffled = seeding.permutation(len(formed), self._seed, Purpose.PACKS, epoch, window)
        packs = []
        for place in shuffled.tolist():
            of = good[np.sort(formed[place])]
            lengths, count = tokens[of].tolist(), int(tiles[of].sum())
            held = Drawn(drawn.source[of], drawn.row[of], drawn.number[of])
            packs.append(WindowPack(held, sum(lengths), count, self._cost.of(lengths, count)))
        return tuple(packs)

    def _lengths(self, source: np.ndarray, row: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Tokens, tiles and reason of some rows, int64[n] each."""
        lengths = np.empty((3, len(row)), dtype=np.int64)
        for number in np.unique(source):
            of = np.flatnonzero(source == number)
            # Read in the file's own order, where neighbours may share a page of it.
            of = of[np.argsort(row[of])]
            rows = self._rows[number][row[of]]
            lengths[:, of] = rows["tokens"], rows["tiles"], rows["reason"]
        return lengths[0], lengths[1], lengths[2]


@dataclass(frozen=True)
class EpochEstimate:
    """What an epoch holds. Exact where all of it was packed, else scaled up from an even sample of its windows."""

    packs: int
    samples: int
    tokens: int
    tiles: int
    token_fill: float
    """Share of the packs' capacity that tokens fill."""
    tile_fill: float
    exact: bool


def estimate(walk: Walk, *, epoch: int = 0, max_windows: int | None = None) -> EpochEstimate:
    """How many packs an epoch has, and how full they are.

    Args:
        epoch: counted from 0.
        max_windows: most windows to pack, at least 1; an epoch with more is estimated from so many, spread evenly over
            it. Absent: all are packed.
    """
    count = min(walk.windows, max_windows or walk.windows)
    sampled = [number * walk.windows // count for number in range(count)]
    drawn = sum(len(walk.draws_of(number)) for number in sampled)
    packs = samples = tokens = tiles = 0
    for number in sampled:
        for pack in walk.window(epoch, number):
            packs, samples = packs + 1, samples + len(pack.drawn.row)
            tokens, tiles = tokens + pack.tokens, tiles + pack.tiles

    def scaled(value: int) -> int:
        return round(value * walk.draws / drawn)

    return EpochEstimate(
        packs=scaled(packs),
        samples=scaled(samples),
        tokens=scaled(tokens),
        tiles=scaled(tiles),
        token_fill=tokens / (packs * walk.limits.tokens) if packs else 0.0,
        tile_fill=tiles / (packs * walk.limits.tiles) if packs else 0.0,
        exact=count == walk.windows,
    )
