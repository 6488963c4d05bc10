"""Which samples of an epoch share a pack. Pure functions of the epoch's seed and the samples' lengths.

Source: InternVL-2.5 report, section 4.2, with the released behaviour: open packs ordered by falling tile count, first
fit, limits inclusive. New here: the order is global instead of per loader process, and greedy packing runs in fixed
windows of the seeded order, so any data-parallel size sees the same packs and a window never depends on another.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

WINDOW = 4096
"""Draws that are packed together. At most OPEN_PACKS packs per window end less than full."""

OPEN_PACKS = 20


class PackLimits(NamedTuple):
    """The most tokens and tiles that a pack may hold, both inclusive."""

    tokens: int
    tiles: int


@dataclass(slots=True)
class _OpenPack:
    tokens: int
    tiles: int
    members: list[int] = field(default_factory=list)


def form_packs(
    tokens: Sequence[int], tiles: Sequence[int], limits: PackLimits, *, open_packs: int = OPEN_PACKS
) -> list[list[int]]:
    """Greedily pack samples, drawn in the order given, into packs within the limits.

    Args:
        tokens, tiles: sizes of each sample, in drawing order.
        limits: of one pack, inclusive.
        open_packs: how many unfinished packs are kept for later samples to fill up.

    Returns:
        Packs in the order they were finished; each lists positions in the drawing order, every position exactly once.

    Raises:
        ValueError: a sample alone exceeds a limit.
    """
    waiting: list[_OpenPack] = []  # falling tile count; a newer pack stands behind older ones of the same count
    finished: list[list[int]] = []
    for position, (size, images) in enumerate(zip(tokens, tiles, strict=True)):
        if size > limits.tokens or images > limits.tiles:
            raise ValueError(
                f"sample at position {position} has {size} tokens and {images} tiles; a pack holds at most "
                f"{limits.tokens} and {limits.tiles}"
            )
        pack = _take_first_fit(waiting, size, images, limits)
        pack.members.append(position)
        pack.tokens += size
        pack.tiles += images
        if pack.tokens == limits.tokens or pack.tiles == limits.tiles:
            finished.append(pack.members)
            continue
        _insert(waiting, pack)
        if len(waiting) > open_packs:
            finished.append(waiting.pop(0).members)
    return finished + [pack.members for pack in waiting]


def _take_first_fit(waiting: list[_OpenPack], tokens: int, tiles: int, limits: PackLimits) -> _OpenPack:
    for place, pack in enumerate(waiting):
        if pack.tiles + tiles <= limits.tiles and pack.tokens + tokens <= limits.tokens:
            return waiting.pop(place)
    return _OpenPack(0, 0)


def _insert(waiting: list[_OpenPack], pack: _OpenPack) -> None:
    for place, other in enumerate(waiting):
        if other.tiles < pack.tiles:
            waiting.insert(place, pack)
            return
    waiting.append(pack)


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
