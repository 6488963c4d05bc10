"""The video of one sample: how many frames it shows, and those frames as tiles.

Each frame becomes one tile, resized regardless of its aspect ratio, without a grid and without a thumbnail. JPEG
augmentation never applies to video. Source: InternVL-2.5 report, sections 3.1 and 4.1.

Shapes: N frames, S a tile's side, C = 3 colours.
"""

import contextlib
from collections.abc import Iterator

import numpy as np

from internvl_trainer.data.errors import ClipOutsideVideoError, VideoUnreadableError
from internvl_trainer.data.media import MediaReader, shown
from internvl_trainer.data.pixels.resize import resize
from internvl_trainer.data.records import Record
from internvl_trainer.data.sources import Source, join
from internvl_trainer.data.video.decode import VideoFile
from internvl_trainer.data.video.film import Film, VideoError
from internvl_trainer.data.video.folder import FrameFolder
from internvl_trainer.data.video.frames import Sampling, choose, clip_span, drawn_count
from internvl_trainer.storage import InvalidLocationError, ObjectNotFoundError

LARGEST_OBJECT = 512 * 1024 * 1024
"""Bytes of the largest video that is read from a remote store, whole, into memory. Local files are read in place."""

# What a key of the sample's draws is extended by, so that frames are drawn independently of everything else.
_FRAMES = 1


class VideoReader:
    """Reads the videos of samples. Safe to use from several threads.

    Args:
        sampling: which frames are shown.
        tile_size: pixels of a tile's side.
        media: where videos are.
    """

    def __init__(self, sampling: Sampling, tile_size: int, media: MediaReader) -> None:
        self._sampling = sampling
        self._tile_size = tile_size
        self._media = media

    def count(self, record: Record, source: Source) -> int:
        """How many frames a sample shows. The video is opened only where that depends on its length (`fps`).

        Raises:
            VideoUnreadableError, ClipOutsideVideoError: it was opened, and cannot be used.
            StoreError: the store did not answer.
        """
        if self._sampling.per_second is None:
            return drawn_count(record, self._sampling)
        with self._opened(record, source) as film:
            return len(choose(_span(record, film), film.rate, self._sampling, 0, ()))

    def load_tiles(
        self, record: Record, source: Source, count: int, key: tuple[int, ...], out: np.ndarray | None = None
    ) -> np.ndarray:
        """The frames of a sample, uint8[N, S, S, 3].

        Args:
            count: N, as counted.
            key: seeds which frame of each part is shown.
            out: where to write them; a new array if absent.

        Raises:
            VideoUnreadableError: missing, damaged, or not the video that was counted.
            ClipOutsideVideoError: the record's clip begins after its end.
            StoreError: the store did not answer.
        """
        tiles_NSSC = np.empty((count, self._tile_size, self._tile_size, 3), dtype=np.uint8) if out is None else out
        with self._opened(record, source) as film:
            chosen_N = np.asarray(choose(_span(record, film), film.rate, self._sampling, count, (*key, _FRAMES)))
            if len(chosen_N) != count:
                raise VideoError(f"it shows {len(chosen_N)} frames, and showed {count} when it was indexed")
            distinct = np.unique(chosen_N).tolist()
            for index, pixels_HWC in zip(distinct, film.pictures(distinct), strict=True):
                tiles_NSSC[chosen_N == index] = resize(pixels_HWC, self._tile_size, self._tile_size)
        return tiles_NSSC

    @contextlib.contextmanager
    def _opened(self, record: Record, source: Source) -> Iterator[Film]:
        assert record.video is not None
        uri = join(source.root, record.video)
        try:
            with self._film(uri) as film:
                yield film
        except VideoError as error:
            raise VideoUnreadableError(record.name, f"video {shown(uri)} cannot be used: {error}") from error
        except ObjectNotFoundError as error:
            raise VideoUnreadableError(record.name, f"video {shown(uri)} does not exist") from error
        except InvalidLocationError as error:
            raise VideoUnreadableError(
                record.name, f"video {shown(uri)} has no usable address; give s3://, file:// or a path"
            ) from error

    def _film(self, uri: str) -> Film:
        if uri.endswith("/"):
            return FrameFolder(uri, self._media)
        if (path := self._media.local(uri)) is not None:
            return VideoFile(path)
        if (payload := self._media.read_at_most(uri, LARGEST_OBJECT)) is None:
            raise VideoError(
                f"it has more than {LARGEST_OBJECT // 1024**2} MiB, too large to be held in memory; cut it into clips, "
                "or mount it as a file, which is read in place"
            )
        return VideoFile(payload)


def _span(record: Record, film: Film) -> range:
    span = clip_span(film.frames, film.rate, record.clip)
    if span is None:
        raise ClipOutsideVideoError(
            record.name,
            f"clip {list(record.clip or ())} s of video {shown(record.video or '')}, which ends after "
            f"{film.frames / film.rate:.2f} s; correct the clip",
        )
    return span
