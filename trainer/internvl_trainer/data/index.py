"""The index of a stage's data: where each usable sample lies and how many tokens and tiles it has.

It holds numbers only (28 bytes a sample); records are read from the annotation files again when a pack needs them.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from internvl_trainer.data.errors import BadSampleError, DataError, TooManyBadSamplesError
from internvl_trainer.data.records import Record, parse_record
from internvl_trainer.data.sources import Source

MAX_BAD_FRACTION = 0.01
"""Share of a data set's samples that may be unusable; more means that something is wrong with all of it."""

Measure = Callable[[Record, Source], tuple[int, int]]
"""Tokens and tiles of a record; raises BadSampleError for one that cannot be trained on."""


class SourceIndex(NamedTuple):
    """The usable samples of one data set, in the order of its file."""

    source: Source
    path: Path
    offset: np.ndarray
    """int64[samples]: first byte of each sample's line."""
    size: np.ndarray
    """int32[samples]: bytes of each line."""
    line: np.ndarray
    """int64[samples]: 1-based number of each line."""
    tokens: np.ndarray
    """int32[samples]."""
    tiles: np.ndarray
    """int32[samples]."""
    bad: tuple[BadSampleError, ...]
    """Why each of the other samples was left out."""

    def record(self, sample: int) -> Record:
        """Read and parse one sample again."""
        with self.path.open("rb") as file:
            line = os.pread(file.fileno(), int(self.size[sample]), int(self.offset[sample]))
        return parse_record(line, source=self.source.name, line_number=int(self.line[sample]))


def build_index(
    source: Source, path: Path, measure: Measure, *, max_bad_fraction: float = MAX_BAD_FRACTION
) -> SourceIndex:
    """Read a data set once and measure every sample.

    A sample that cannot be trained on is left out, by a decision that depends on the data alone, so every rank leaves
    out the same.

    Raises:
        TooManyBadSamplesError: more than `max_bad_fraction` of the samples are unusable.
        DataError: the file holds no sample.
    """
    rows: list[tuple[int, int, int, int, int]] = []
    bad: list[BadSampleError] = []
    for number, offset, line in _lines(path):
        try:
            lengths = measure(parse_record(line, source=source.name, line_number=number), source)
        except BadSampleError as fault:
            bad.append(fault)
        else:
            rows.append((offset, len(line), number, *lengths))
    _check(source, len(rows), bad, max_bad_fraction)
    offsets, sizes, lines, tokens, tiles = np.asarray(rows, dtype=np.int64).T
    return SourceIndex(source, path, offsets, _int32(sizes), lines, _int32(tokens), _int32(tiles), tuple(bad))


def count_reasons(bad: Sequence[BadSampleError]) -> dict[str, int]:
    """How often each kind of fault occurs, most frequent first."""
    return dict(Counter(fault.reason for fault in bad).most_common())


def _lines(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """1-based number, byte offset and content of each line that is not blank."""
    offset = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield number, offset, line
            offset += len(line)


def _int32(values: np.ndarray) -> np.ndarray:
    return values.astype(np.int32)


def _check(source: Source, good: int, bad: Sequence[BadSampleError], limit: float) -> None:
    total = good + len(bad)
    if not total:
        raise DataError(f"data set {source.name!r}: {source.annotation} holds no sample")
    if len(bad) > limit * total or not good:
        first = "; ".join(str(fault) for fault in bad[:3])
        raise TooManyBadSamplesError(
            f"data set {source.name!r}: {len(bad)} of {total} samples are unusable, limit {limit:.0%} "
            f"({', '.join(f'{count} {reason}' for reason, count in count_reasons(bad).items())}); first: {first}"
        )
