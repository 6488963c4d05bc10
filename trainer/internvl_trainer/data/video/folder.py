"""A folder of image files as a video: InternVL's data has some videos as frames that were cut out beforehand."""

import re
from collections.abc import Iterator, Sequence
from typing import Self

import numpy as np

from internvl_trainer.data.media import MediaReader
from internvl_trainer.data.pixels.decode import DecodeError, decode
from internvl_trainer.data.video.film import VideoError
from internvl_trainer.storage import ObjectNotFoundError

_IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
_NUMBER = re.compile(r"\d+")


class FrameFolder:
    """The images of a folder, a frame each, in the order of the last number in their names, then of the names.

    Their rate is not known; one a second is assumed, as the released trainer does, for clips and `fps` sampling.

    Args:
        folder: its URI, ending with a slash.
        media: where it is.

    Raises:
        VideoError: there is no image in it.
        StoreError: the store did not answer.
    """

    rate = 1.0

    def __init__(self, folder: str, media: MediaReader) -> None:
        found = [uri for uri in media.files_in(folder) if uri.lower().endswith(_IMAGES)]
        if not found:
            raise VideoError(f"there is no image ({', '.join(_IMAGES)}) in the folder")
        self._files = sorted(found, key=_place)
        self._media = media
        self.frames = len(found)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is open."""

    def pictures(self, indices: Sequence[int]) -> Iterator[np.ndarray]:
        """See `Film.pictures`."""
        for index in indices:
            file = self._files[index]
            try:
                yield decode(self._media.read(file)).pixels_HWC
            except (DecodeError, ObjectNotFoundError) as error:
                raise VideoError(f"frame {file.rpartition('/')[2]} cannot be decoded: {error}") from error


def _place(uri: str) -> tuple[int, str]:
    name = uri.rpartition("/")[2]
    numbers = _NUMBER.findall(name.rpartition(".")[0])
    return int(numbers[-1][:_LONGEST_NUMBER]) if numbers else -1, name


_LONGEST_NUMBER = 30
"""Digits; a name can have more than Python turns into an integer."""
