"""What a pack may hold."""

from typing import NamedTuple


class PackLimits(NamedTuple):
    """The most tokens and tiles that a pack may hold, both inclusive."""

    tokens: int
    tiles: int
