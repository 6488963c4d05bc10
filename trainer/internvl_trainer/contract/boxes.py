"""Rectangular parts of tensors, in the whole tensor's coordinates: pure."""

import math
from typing import NamedTuple


class Box(NamedTuple):
    """A rectangular part of a tensor: where it begins in the whole, and its extent, axis by axis."""

    offset: tuple[int, ...]
    shape: tuple[int, ...]

    @property
    def volume(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    def meets(self, other: "Box") -> bool:
        """Whether both have an element in common."""
        return all(
            mine < theirs + their_size and theirs < mine + my_size
            for mine, my_size, theirs, their_size in zip(*self, *other, strict=True)
        )

    def common(self, other: "Box") -> "Box":
        """The box of all elements that both have; they must meet."""
        begins = tuple(max(mine, theirs) for mine, theirs in zip(self.offset, other.offset, strict=True))
        ends = (
            min(mine + my_size, theirs + their_size)
            for mine, my_size, theirs, their_size in zip(*self, *other, strict=True)
        )
        return Box(begins, tuple(end - begin for begin, end in zip(begins, ends, strict=True)))

    def within(self, outer: "Box") -> tuple[slice, ...]:
        """Which elements of a tensor that holds `outer` are this box, which lies inside it."""
        return tuple(
            slice(mine - theirs, mine - theirs + size)
            for mine, theirs, size in zip(self.offset, outer.offset, self.shape, strict=True)
        )
