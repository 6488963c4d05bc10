"""One row per line of an annotation file: where it lies, what it measures, or why it cannot be used."""

from collections import Counter
from collections.abc import Iterable

import numpy as np

from internvl_trainer.data import errors
from internvl_trainer.data.errors import BadSampleError

ROW = np.dtype(
    [
        ("offset", "<u8"),
        ("size", "<u4"),
        ("line", "<u4"),
        ("tokens", "<u4"),
        ("tiles", "<u2"),
        ("kind", "u1"),
        ("reason", "u1"),
    ]
)
"""24 bytes, little endian, without padding.

    offset   first byte of the line in its file
    size     bytes of the line, without its newline
    line     1-based number of the line
    tokens   length of the sample; 0 for one that cannot be used
    tiles    of all its images or frames; 0 for one that cannot be used
    kind     a `records.Kind`; 0 where the line could not be parsed
    reason   0: good; else one of the codes below
"""

GOOD = 0

MOST_TOKENS = int(np.iinfo(ROW["tokens"]).max)
MOST_TILES = int(np.iinfo(ROW["tiles"]).max)

REASONS: dict[int, type[BadSampleError]] = {
    1: errors.MalformedRecordError,
    2: errors.VideoNotSupportedError,
    3: errors.PlaceholderMismatchError,
    4: errors.ReservedTokenError,
    5: errors.ImageUnreadableError,
    6: errors.ImageSizeMismatchError,
    7: errors.VisualBlockCutError,
    8: errors.TooManyTilesError,
    9: errors.NothingSupervisedError,
    10: errors.ImageTooLargeError,
    11: errors.VideoUnreadableError,
    12: errors.ClipOutsideVideoError,
    13: errors.MalformedBoxError,
    14: errors.TurnOrderError,
    15: errors.SampleChangedError,
}
"""Codes of the kinds of fault. Indexes that are kept have them: a code is never given another meaning."""

_CODES = {kind: code for code, kind in REASONS.items()}


def code_of(fault: BadSampleError) -> int:
    """The code of a fault's kind, 1..255."""
    return _CODES[type(fault)]


def count_reasons(faults: Iterable[BadSampleError]) -> dict[str, int]:
    """How often each kind of fault occurs, most frequent first."""
    return dict(Counter(fault.reason for fault in faults).most_common())
