"""All packs of one epoch at once, for data sets whose order fits into memory."""

from typing import NamedTuple

import numpy as np

from internvl_trainer.data.packing.best import form_packs
from internvl_trainer.data.packing.limits import PackLimits

WINDOW = 4096
"""Draws that are packed together."""


class EpochPlan(NamedTuple):
    """The packs of one epoch: pack p holds draws order[starts[p]:starts[p + 1]], in that order."""

    order: np.ndarray
    """int64[draws]: draw numbers, pack after pack."""
    starts: np.ndarray
    """int64[packs + 1]."""

    @property
    def packs(self) -> int:
        """Number of packs."""
        return len(self.starts) - 1

    def draws(self, pack: int) -> np.ndarray:
        """The draw numbers of one pack, in O(1)."""
        return self.order[self.starts[pack] : self.starts[pack + 1]]


def plan_epoch(
    order: np.ndarray, tokens: np.ndarray, tiles: np.ndarray, limits: PackLimits, *, window: int = WINDOW
) -> EpochPlan:
    """Pack one epoch.

    Args:
        order: int64[draws], the seeded order in which samples are drawn.
        tokens, tiles: int[draws], sizes of draw number d (not of the d-th drawn).
        limits: of one pack.
        window: draws that are packed together.
    """
    packed: list[int] = []
    starts = [0]
    for begin in range(0, len(order), window):
        drawn = order[begin : begin + window]
        for members in form_packs(tokens[drawn].tolist(), tiles[drawn].tolist(), limits):
            packed.extend(drawn[members].tolist())
            starts.append(len(packed))
    return EpochPlan(np.asarray(packed, dtype=np.int64), np.asarray(starts, dtype=np.int64))
