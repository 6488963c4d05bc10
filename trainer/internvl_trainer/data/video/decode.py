"""Chosen frames of a video file, exactly those that decoding it from its beginning would give.

A file is read once without decoding, for the times and key frames of all its packets (24 bytes a frame); then each
chosen frame is decoded from the key frame before it. Files whose packets do not say when they are shown (AVI, MPEG-PS,
GIF) are decoded from the beginning, twice: to count, and to pick. One frame is in memory at a time. Decoding uses one
thread: the loader has a process per core.

Shapes: H and W a frame's height and width, C = 3 colours.
"""

import contextlib
import errno
import io
import itertools
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Self

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.stream import Discard, Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from internvl_trainer.data.video.film import VideoError
from internvl_trainer.data.video.timeline import Timeline

type VideoPacket = Packet[VideoStream]

LARGEST_FRAME = 64_000_000
"""Most pixels of a frame: 96 MB decoded, and 192 MB as RGB."""

_FORMATS = "mov,matroska,avi,flv,mpegts,mpeg,mpegvideo,asf,ogg,gif,rm,h264,hevc,m4v,ivf,mjpeg,dv,mxf,nut,wtv"
"""Demuxers of video files. Others are not tried: playlists would open further files and addresses."""

_TIMED = frozenset({"mov", "matroska", "mpegts", "flv"})
"""Formats that store with every packet when it is shown. In others that is guessed, and differs after seeking."""

_HIDDEN_FRAMES = frozenset({"vp8"})
"""Codecs with packets of their own for frames that are never shown."""

_NAMES_NO_FILE = frozenset({errno.ENOENT, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG})

_BUFFER = 256 * 1024


class VideoFile:
    """An open video. Close it, or use it as a context manager.

    Args:
        source: a local file, or all bytes of one.

    Raises:
        VideoError: unknown format, no picture in it, damaged, or too large.

    Attributes:
        frames: how many it has, at least 1.
        rate: frames a second, on average.
    """

    def __init__(self, source: Path | bytes) -> None:
        self._source = source
        with contextlib.ExitStack() as on_failure, _explained():
            self._open()
            on_failure.callback(self.close)
            self._timeline = self._scan()
            self.frames = self._count() if self._timeline is None else len(self._timeline.shown_F)
            if not self.frames:
                raise VideoError("there is no frame in it")
            self.rate = self._rate()
            on_failure.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the decoder and the file."""
        self._resources.close()

    def pictures(self, indices: Sequence[int]) -> Iterator[np.ndarray]:
        """The frames of ascending, distinct indices, one after the other: uint8[H, W, 3], turned upright.

        Raises:
            VideoError: a frame is damaged.
        """
        with _explained():
            for frame in self._sought(indices) if self._timeline is not None else self._counted(indices):
                if frame.is_corrupt:
                    raise VideoError(f"the frame at {frame.time:.3f} s is damaged")
                yield _upright(frame)

    def _open(self) -> None:
        self._resources = contextlib.ExitStack()
        file = self._source.open("rb") if isinstance(self._source, Path) else io.BytesIO(self._source)
        self._resources.enter_context(file)
        try:
            if not file.read(1):
                raise VideoError("it is empty (0 bytes)")
            file.seek(0)
            # Never by name: FFmpeg would read meaning into a path with a colon.
            opened = av.open(file, "r", container_options={"format_whitelist": _FORMATS}, buffer_size=_BUFFER)
            self._container = self._resources.enter_context(opened)
            self._stream = _picture_stream(self._container)
        except av.error.FFmpegError as error:
            self._resources.close()
            raise VideoError(f"it is of no known video format, or cut off (FFmpeg says: {error.strerror})") from error
        except BaseException:
            self._resources.close()
            raise

    def _reopen(self) -> None:
        self.close()
        self._open()

    def _scan(self) -> Timeline | None:
        """Times of all packets; None where they are of no use."""
        stream, times, keys, shown, cut_off = self._stream, [], [], [], False
        timed = self._container.format.name.partition(",")[0] in _TIMED
        if not timed or stream.codec_context.name in _HIDDEN_FRAMES:
            return None
        for packet in self._packets():
            if packet.pts is None:
                return None
            times.append(packet.pts)
            keys.append(packet.is_keyframe)
            shown.append(not packet.is_discard)
            cut_off = packet.is_corrupt
        if cut_off and stream.frames > len(times):
            raise VideoError(f"its header lists {stream.frames} frames, and the data ends within frame {len(times)}")
        return Timeline.of(times, keys, shown)

    def _packets(self) -> Iterator[VideoPacket]:
        return (packet for packet in self._container.demux(self._stream) if packet.size)

    def _count(self) -> int:
        self._reopen()
        return sum(1 for _ in self._container.decode(self._stream))

    def _rate(self) -> float:
        stated = self._stream.average_rate or self._stream.guessed_rate
        if stated:
            return float(stated)
        span = 0.0
        if self._timeline is not None and self._stream.time_base:
            span = float((self._timeline.shown_F[-1] - self._timeline.shown_F[0]) * self._stream.time_base)
        return (self.frames - 1) / span if span > 0 else 1.0

    def _counted(self, indices: Sequence[int]) -> Iterator[VideoFrame]:
        self._reopen()
        wanted = iter(indices)
        index = next(wanted, None)
        for number, frame in enumerate(self._container.decode(self._stream)):
            if number == index:
                yield frame
                index = next(wanted, None)
            if index is None:
                return
        raise VideoError(f"frame {index} of {self.frames} cannot be decoded")

    def _sought(self, indices: Sequence[int]) -> Iterator[VideoFrame]:
        assert self._timeline is not None
        decoding: Iterator[VideoFrame] = iter(())
        reached = -1
        frame = None
        for index in indices:
            begin, time = int(self._timeline.begin_F[index]), int(self._timeline.shown_F[index])
            # A key frame that decoding has not come to yet saves what lies between.
            if begin > reached or frame is None:
                decoding = self._decoded_from(begin)
                reached = begin
            for frame in decoding:
                if frame.pts is not None and frame.pts >= time:
                    break
            if frame is None or frame.pts != time:
                raise VideoError(f"frame {index} of {self.frames} cannot be decoded")
            yield frame

    def _decoded_from(self, begin: int) -> Iterator[VideoFrame]:
        """Frames in the order of showing, beginning with the packet of that number, a key frame."""
        for packet in self._packets_from(begin):
            yield from packet.decode()
        yield from self._stream.decode(None)

    def _packets_from(self, begin: int) -> Iterator[VideoPacket]:
        """Packets in the order of decoding, beginning with that number."""
        assert self._timeline is not None
        time = int(self._timeline.packets_P[begin])
        # A format may land behind the place that was asked for; then everything is read from the start.
        for seek in (partial(self._container.seek, time, stream=self._stream, backward=True), self._reopen):
            seek()
            packets = self._packets()
            first = next(packets, None)
            number = None if first is None or first.pts is None else self._timeline.packet_at(first.pts)
            if first is not None and number is not None and number <= begin:
                return itertools.islice(itertools.chain([first], packets), begin - number, None)
        raise VideoError(f"its packet {begin} cannot be reached")


def _picture_stream(container: InputContainer) -> VideoStream:
    """The first stream of pictures that is no cover, set up to be decoded by one thread."""
    streams = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    if not streams:
        kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
        raise VideoError(f"there are no moving pictures in it, but {kinds}")
    stream = streams[0]
    decoder = stream.codec_context
    if decoder is None:
        raise VideoError("its codec is not known to the decoder; convert it, for example to H.264")
    _check_size(decoder.width, decoder.height)
    decoder.thread_count = 1
    for other in container.streams:
        other.discard = Discard.default if other is stream else Discard.all
    return stream


def _check_size(width: int, height: int) -> None:
    if width * height > LARGEST_FRAME:
        raise VideoError(
            f"its frames are {width} x {height} px; at most {LARGEST_FRAME / 1e6:.0f} megapixels are decoded, "
            "scale it down"
        )


def _upright(frame: VideoFrame) -> np.ndarray:
    """RGB, turned as the file's display matrix says: cameras that are held upright store lying frames."""
    _check_size(frame.width, frame.height)
    pixels_HWC = frame.reformat(format="rgb24", threads=1).to_ndarray()
    return np.ascontiguousarray(np.rot90(pixels_HWC, round(frame.rotation / 90) % 4))


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """What FFmpeg and PyAV raise for a file as a VideoError; faults of the disk and the program pass."""
    try:
        yield
    except av.error.FFmpegError as error:
        raise VideoError(f"FFmpeg says: {error.strerror}") from error
    except OSError as error:
        if error.errno not in _NAMES_NO_FILE:
            raise
        raise VideoError("it does not exist") from error
