"""When the frames of a video are shown, and where decoding has to begin to get each of them. Pure.

A container stores packets in the order of decoding; with B-frames that is not the order of showing. Frame number i is
the i-th one shown. It can be decoded from any key frame that stands before it in both orders: of two key frames around
the B-frames of an open group of pictures, the later one is not enough.

Shapes: P packets in the order of decoding, F frames in the order of showing.
"""

from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt


class Timeline(NamedTuple):
    """The frames of a video whose packets say when they are shown."""

    shown_F: npt.NDArray[np.int64]
    """Ascending times in units of the stream."""
    begin_F: npt.NDArray[np.int64]
    """Packet from which on each frame is decoded: its number in the order of decoding."""
    packets_P: npt.NDArray[np.int64]
    """Time of each packet."""

    @classmethod
    def of(cls, times: Sequence[int], keys: Sequence[bool], shown: Sequence[bool]) -> Self | None:
        """From each packet's time, whether it is a key frame, and whether it is shown at all, in decoding order.

        Frames that no key frame leads to (the beginning of a recording that was cut) do not count.

        Returns:
            None where packets and frames do not correspond: two with the same time, or no key frame.
        """
        packets_P = np.asarray(times, dtype=np.int64)
        key_K = np.flatnonzero(np.asarray(keys, dtype=bool))
        frame_F = np.flatnonzero(np.asarray(shown, dtype=bool))
        if not len(key_K) or len(np.unique(packets_P)) != len(packets_P):
            return None
        frame_F = frame_F[np.argsort(packets_P[frame_F])]
        # The last key frame before each frame in decoding order, then back to one that is also shown no later.
        nearest_F = np.searchsorted(key_K, frame_F, side="right") - 1
        while True:
            late_F = (nearest_F >= 0) & (packets_P[key_K[nearest_F]] > packets_P[frame_F])
            if not late_F.any():
                break
            nearest_F = nearest_F - late_F
        reached_F = nearest_F >= 0
        return cls(packets_P[frame_F[reached_F]], key_K[nearest_F[reached_F]], packets_P)

    def packet_at(self, time: int) -> int | None:
        """Number of the packet that is shown at a time; None if there is none."""
        (found,) = np.nonzero(self.packets_P == time)
        return int(found[0]) if len(found) else None
