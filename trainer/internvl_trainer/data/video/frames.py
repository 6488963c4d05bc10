"""Which frames of a video a sample shows. Pure.

Source: the released behaviour. A video is cut into as many equal parts as the sample has frames, and one frame of each
part is shown: any of them (`rand`) or the one in the middle (`middle`); a video with fewer frames than that shows them
all, and its last one again. How many frames a sample has is drawn from min_frames..max_frames. `fps<x>` shows frames
at a rate instead, as many as the video is long, at most max_frames. `clip` confines all this to a part of the video.

What differs: the number of frames is a function of the sample alone, so that its length is known before training and
the same in every epoch; `rand` draws from the whole of each part, the released code from all but its last frame; a
clip that ends after its video is cut to it; a video shorter than one interval of `fps<x>` shows its middle frame.
"""

import hashlib
from dataclasses import dataclass

import numpy as np

from internvl_trainer.data import seeding
from internvl_trainer.data.records import Record


@dataclass(frozen=True)
class Sampling:
    """How a stage chooses frames.

    Attributes:
        mode: `rand`, `middle`, or `fps` with a number of frames a second behind it.
        min_frames, max_frames: range, both ends included, that a sample's number of frames is drawn from.
    """

    mode: str = "rand"
    min_frames: int = 8
    max_frames: int = 32

    @property
    def per_second(self) -> float | None:
        """Frames a second; None where their number does not depend on the video's length."""
        return float(self.mode.removeprefix("fps")) if self.mode.startswith("fps") else None


def drawn_count(record: Record, sampling: Sampling) -> int:
    """How many frames a sample shows, uniform over the range: a function of its video, its clip and its text.

    Where the sample stands in its file, and under which name, is left out: a data set that is sorted anew or cut into
    several files keeps its lengths.
    """
    identity = repr((record.video, record.clip, [tuple(turn) for turn in record.turns]))
    digest = hashlib.blake2b(identity.encode(), digest_size=8).digest()
    return int(seeding.integers(1, sampling.min_frames, sampling.max_frames, int.from_bytes(digest, "little"))[0])


def clip_span(frames: int, rate: float, clip: tuple[float, float] | None) -> range | None:
    """The frames that a clip names, at least one; None if it begins after the video has ended.

    Args:
        frames: of the video, at least 1.
        rate: frames a second.
        clip: (start, end) in seconds; None for the whole video.
    """
    if clip is None:
        return range(frames)
    start, end = clip
    first = int(start * rate)
    if first >= frames:
        return None
    return range(first, min(frames, first + max(1, int((end - start) * rate))))


def spread(frames: int, count: int, key: tuple[int, ...] | None = None) -> list[int]:
    """One frame out of each of `count` equal parts of `frames` frames, ascending.

    Args:
        frames: at least 1; with fewer than `count`, each is a part, and the last frame fills up.
        count: at least 1.
        key: seeds the draw inside each part; None takes the middle ones.
    """
    parts = min(frames, count)
    bounds = np.linspace(0, frames, parts + 1).astype(np.int64)
    first, last = bounds[:-1], bounds[1:] - 1
    if key is None:
        chosen = (first + last) // 2
    else:
        chosen = first + (seeding.draw(parts, *key) % (last - first + 1).astype(np.uint64)).astype(np.int64)
    return [*chosen.tolist(), *[int(chosen[-1])] * (count - parts)]


def paced(frames: int, rate: float, per_second: float, max_frames: int) -> list[int]:
    """The frames nearest to the middle of each interval of 1/`per_second` seconds, the first `max_frames` of them.

    Args:
        frames: at least 1.
        rate: frames a second of the video.
        per_second: frames a second to show.
    """
    interval = 1 / per_second
    # Intervals beyond the limit are left out at once: what a video's header says about its rate can be anything.
    duration = min(frames / rate, (max_frames + 1) * interval)
    seconds = np.arange(interval / 2, duration + interval / 2, interval)
    indices = np.around(seconds * rate).astype(np.int64)
    chosen = indices[indices < frames][:max_frames].tolist()
    return chosen or [(frames - 1) // 2]


def choose(span: range, rate: float, sampling: Sampling, count: int, key: tuple[int, ...]) -> list[int]:
    """Which frames to show, as indices of the whole video, ascending, repetitions included.

    Args:
        span: the frames that come into question, at least one.
        rate: frames a second of the video.
        count: how many; not looked at where the sampling goes by seconds.
        key: seeds the draw of mode `rand`.
    """
    if sampling.per_second is not None:
        chosen = paced(len(span), rate, sampling.per_second, sampling.max_frames)
    else:
        chosen = spread(len(span), count, key if sampling.mode == "rand" else None)
    return [span.start + index for index in chosen]
