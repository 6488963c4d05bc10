"""What a reader of samples needs of a video, whatever it is stored as.

Shapes: H and W a frame's height and width, C = 3 colours.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol, Self

import numpy as np


class VideoError(ValueError):
    """There is no video that can be decoded. The message says why, as the end of a sentence."""


class Film(Protocol):
    """An open video."""

    @property
    def frames(self) -> int:
        """How many frames it has, at least 1."""

    @property
    def rate(self) -> float:
        """Frames a second, on average."""

    def pictures(self, indices: Sequence[int]) -> Iterator[np.ndarray]:
        """The frames of ascending, distinct indices, one after the other: uint8[H, W, 3].

        Raises:
            VideoError: a frame is missing or damaged.
        """

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...
