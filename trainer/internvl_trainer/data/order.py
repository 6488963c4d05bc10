"""The order in which an epoch draws its samples, as a function that can be asked for any place in it.

Nothing is stored for an epoch but a few numbers for each data set, so 50 million samples cost what fifty do.
"""

from collections.abc import Sequence
from fractions import Fraction
from typing import Literal, NamedTuple

import numpy as np

from internvl_trainer.data import seeding
from internvl_trainer.data.errors import MetaError
from internvl_trainer.data.reference_order import reference_repeat
from internvl_trainer.data.seeding import Purpose

RepeatMode = Literal["exact", "reference"]

MAX_DRAWS = 2**53
"""Of an epoch: up to here every number in use is exact."""


class Drawn(NamedTuple):
    """Some draws of an epoch, in the order asked for."""

    source: np.ndarray
    """int32[n]: which data set."""
    row: np.ndarray
    """int64[n]: which of its rows."""
    number: np.ndarray
    """int64[n]: which draw of the epoch, before the draws are put into their seeded order."""


class EpochOrder:
    """Which rows an epoch draws, and in what order.

    An epoch draws floor(rows * repeat) rows of each data set, `repeat` taken as the decimal that it is written as: 0.29
    of 100 rows are 29. In mode `exact` each row comes floor(repeat) times, and the rest is a seeded part of the data
    set, another one each epoch: the parts go through the whole data set before any row comes again. In mode `reference`
    the rest is what the released trainer takes: the first rows, the same in every epoch, and only below a repeat of 1.

    Bad rows count like any other, so that a verdict about one sample never moves another.

    Args:
        sizes: rows of each data set.
        repeats: passes over each data set in one epoch.
        mode: what a fraction of a repeat means.
        seed: of the stage's data.
        epoch: counted from 0.

    Raises:
        MetaError: `reference` cannot repeat a data set so often, or the epoch is too long to be numbered.
    """

    def __init__(
        self, sizes: Sequence[int], repeats: Sequence[float], mode: RepeatMode, *, seed: int, epoch: int
    ) -> None:
        drawn = [draws_of(size, repeat, mode) for size, repeat in zip(sizes, repeats, strict=True)]
        self.draws = sum(drawn)
        if self.draws > MAX_DRAWS:
            raise MetaError(f"an epoch of {self.draws} draws is too long, limit {MAX_DRAWS}; lower repeat_time")
        self._sizes = np.asarray(sizes, dtype=np.int64)
        self._starts = np.cumsum([0, *drawn], dtype=np.int64)
        parts = [count % size if size else 0 for count, size in zip(drawn, sizes, strict=True)]
        self._parts = np.asarray(parts, dtype=np.int64)
        # Python's integers, since an epoch's number times a part may leave 64 bits where their remainder does not.
        begins = [epoch * part % size if size else 0 for part, size in zip(parts, sizes, strict=True)]
        self._part_begins = np.asarray(begins, dtype=np.int64)
        self._exact = mode == "exact"
        self._order_keys = seeding.shuffle_keys(seed, Purpose.ORDER, epoch)
        self._part_keys = np.stack(
            [seeding.shuffle_keys(seed, Purpose.REPEAT, source) for source in range(len(parts))], axis=1
        )

    def at(self, positions: np.ndarray) -> Drawn:
        """The draws at some positions of the order, int64[n], each in 0..draws-1, in O(n)."""
        number = seeding.shuffled(positions, self.draws, self._order_keys)
        source = np.searchsorted(self._starts, number, side="right") - 1
        within = number - self._starts[source]
        row = within % self._sizes[source]
        if self._exact:
            # The whole passes come first, and what is left over after them is the seeded part.
            length = self._starts[source + 1] - self._starts[source]
            partial = np.flatnonzero(within >= length - self._parts[source])
            of = source[partial]
            turn = (row[partial] + self._part_begins[of]) % self._sizes[of]
            row[partial] = seeding.shuffled(turn, self._sizes[of], self._part_keys[:, of])
        return Drawn(source.astype(np.int32), row, number)


def draws_of(size: int, repeat: float, mode: RepeatMode) -> int:
    """How many draws an epoch makes of a data set with `size` rows; raises like `EpochOrder`."""
    if mode == "reference":
        return reference_repeat(size, repeat)
    return int(Fraction(str(repeat)) * size)
