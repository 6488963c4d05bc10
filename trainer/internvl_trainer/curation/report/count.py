"""Counting the rows of an index, a chunk at a time: 50 million rows take seconds and the memory of one chunk.

Legend: K kinds of samples (records.Kind), L + 1 possible token counts, T + 1 possible tile counts, R reasons.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from internvl_trainer.data.packing import PackLimits
from internvl_trainer.data.records import Kind

CHUNK = 1 << 19
"""Rows that are looked at together: 12 MiB of an index."""

KINDS = len(Kind)
REASONS = 256
"""Reasons are stored in a byte; 0 is a good sample."""


@dataclass(frozen=True, eq=False)
class Counts:
    """How many samples there are of each kind and size. Everything else of a report follows from it."""

    lengths_KL: np.ndarray
    """int64[K, L + 1]: good samples by kind and number of tokens."""
    tiles_KT: np.ndarray
    """int64[K, T + 1]: good samples by kind and number of tiles."""
    reasons_R: np.ndarray
    """int64[R]: all samples by what is wrong with them, 0 being nothing."""

    @property
    def rows(self) -> int:
        """Good samples and bad ones."""
        return int(self.reasons_R.sum())

    @property
    def samples(self) -> np.ndarray:
        """Good samples of each kind, int64[K]."""
        return self.lengths_KL.sum(axis=1)

    @property
    def tokens(self) -> np.ndarray:
        """Tokens of each kind, int64[K]."""
        return self.lengths_KL @ np.arange(self.lengths_KL.shape[1])

    @property
    def tiles(self) -> np.ndarray:
        """Tiles of each kind, int64[K]."""
        return self.tiles_KT @ np.arange(self.tiles_KT.shape[1])

    def scaled(self, factor: float) -> "Counts":
        """So many times all of it, in fractions of samples (float64): what one epoch holds on average."""
        return Counts(self.lengths_KL * factor, self.tiles_KT * factor, self.reasons_R * factor)

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            self.lengths_KL + other.lengths_KL, self.tiles_KT + other.tiles_KT, self.reasons_R + other.reasons_R
        )


def count(rows: np.ndarray, limits: PackLimits) -> Counts:
    """Count the rows of one index.

    Args:
        rows: of dtype index.ROW, usually a memory map, which is read once from front to back.
        limits: that the index was made with; no good sample has more tokens or tiles.
    """
    lengths = np.zeros((KINDS + 1) * (limits.tokens + 1), dtype=np.int64)
    tiles = np.zeros((KINDS + 1) * (limits.tiles + 1), dtype=np.int64)
    reasons_R = np.zeros(REASONS, dtype=np.int64)
    for chunk in _chunks(rows):
        reason = chunk["reason"]
        reasons_R += np.bincount(reason, minlength=REASONS)
        # Bad samples count as one more kind, which is cheaper than to leave them out of each column.
        kind = np.where(reason == 0, chunk["kind"], KINDS).astype(np.int64)
        lengths += _joint(kind, chunk["tokens"], limits.tokens)
        tiles += _joint(kind, chunk["tiles"], limits.tiles)
    return Counts(lengths.reshape(KINDS + 1, -1)[:KINDS], tiles.reshape(KINDS + 1, -1)[:KINDS], reasons_R)


def _joint(kind: np.ndarray, values: np.ndarray, most: int) -> np.ndarray:
    """How often each pair of kind and value occurs. What a bad sample measures means nothing."""
    values = np.where(kind == KINDS, 0, values)
    if len(values) and int(values.max()) > most:
        raise ValueError(f"the index has a sample of size {values.max()}, more than a pack's {most}; index again")
    return np.bincount(kind * (most + 1) + values, minlength=(KINDS + 1) * (most + 1))


def _chunks(rows: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(rows), CHUNK):
        yield rows[start : start + CHUNK]
