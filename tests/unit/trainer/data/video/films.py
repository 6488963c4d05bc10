"""Films whose frames show their own number, so that a test can tell which frame it was given."""

import io
from collections.abc import Iterable
from fractions import Fraction
from typing import NamedTuple

import av
import numpy as np

BITS = 8
SIDE = 16
WIDTH, HEIGHT = BITS * SIDE, 4 * SIDE


class Kind(NamedTuple):
    """How a film is stored. `options` go to the encoder."""

    codec: str
    format: str
    group: int = 12
    b_frames: int | None = 2
    options: dict[str, str] = {}
    pixels: str = "yuv420p"

    def __str__(self) -> str:
        return f"{self.codec}-{self.format}-g{self.group}"


H264 = Kind("libx264", "mp4")
KINDS = (
    H264,
    Kind("libx264", "mp4", group=1000),
    Kind("libx264", "mp4", options={"x264-params": "open-gop=1:bframes=3:b-pyramid=normal:scenecut=0"}),
    Kind("libx264", "matroska"),
    Kind("libx264", "mpegts"),
    Kind("libx264", "flv"),
    Kind("libx264", "avi"),
    Kind("mpeg4", "mp4"),
    Kind("mpeg4", "avi"),
    Kind("mpeg2video", "mpeg"),
    Kind("libvpx-vp9", "webm", b_frames=None),
    Kind("libvpx", "webm", b_frames=None, options={"auto-alt-ref": "1", "lag-in-frames": "16"}),
    Kind("mjpeg", "avi", b_frames=None, pixels="yuvj420p"),
    Kind("gif", "gif", b_frames=None, pixels="rgb8"),
)


def frame_of(number: int) -> np.ndarray:
    """uint8[H, W, 3]: one column for each bit of a number, white for a one; the lowest bit stands on the left."""
    bits = np.array([number >> bit & 1 for bit in range(BITS)], dtype=np.uint8) * 255
    row_W = np.repeat(bits, SIDE)
    return np.ascontiguousarray(np.broadcast_to(row_W[None, :, None], (HEIGHT, WIDTH, 3)))


def number_of(picture_HWC: np.ndarray) -> int:
    """Which frame a picture shows, at any size."""
    width = picture_HWC.shape[1]
    centres = [int((bit + 0.5) * width / BITS) for bit in range(BITS)]
    row = picture_HWC[picture_HWC.shape[0] // 2, centres].mean(axis=-1)
    return sum(int(value > 128) << bit for bit, value in enumerate(row))


def film(
    frames: int | Iterable[np.ndarray],
    kind: Kind = H264,
    *,
    times: list[int] | None = None,
    rotation: int | None = None,
    muxer: dict[str, str] | None = None,
) -> bytes:
    """A film of numbered frames, or of those given.

    Args:
        times: when each frame is shown, in milliseconds; 25 frames a second if absent.
        rotation: degrees of the display matrix.
        muxer: options of the container.
    """
    sink = io.BytesIO()
    with av.open(sink, "w", format=kind.format, options=muxer or {}) as container:
        stream = container.add_stream(kind.codec, rate=25, options=kind.options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, kind.pixels
        stream.codec_context.gop_size = kind.group
        stream.codec_context.thread_count = 1
        if kind.b_frames is not None and "x264-params" not in kind.options:
            stream.codec_context.max_b_frames = kind.b_frames
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        if rotation is not None:
            stream.set_display_rotation(rotation)
        container.start_encoding()
        pictures = map(frame_of, range(frames)) if isinstance(frames, int) else frames
        for number, picture_HWC in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture_HWC, format="rgb24")
            if times is not None:
                frame.time_base, frame.pts = Fraction(1, 1000), times[number]
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return sink.getvalue()


def all_frames(data: bytes) -> list[np.ndarray]:
    """Every frame by decoding from the beginning, with nothing but PyAV: the judge of what seeking yields."""
    with av.open(io.BytesIO(data)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
