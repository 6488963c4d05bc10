"""Ids that occur twice in a data set, found in bounded memory: every id is a 64-bit hash in a file.

Two different ids among 50 million have the same hash with a probability of 7 in 100,000.
"""

import hashlib
from typing import Any, NamedTuple

import numpy as np

NO_ID = 0
"""Stands for a sample without an id."""

TOGETHER = 1 << 22
"""Hashes that are sorted together: 64 MiB with the rows that they belong to."""

_CHUNK = 1 << 20


class Repeated(NamedTuple):
    """A sample whose id an earlier one has."""

    row: int
    first_row: int


class Duplicates(NamedTuple):
    """How many samples have an id that an earlier one has, and the first of them."""

    samples: int
    first: tuple[Repeated, ...]


def hash_id(sample_id: Any) -> int:
    """64 bits of an id, never NO_ID but for None. 7 and "7" are the same id, as they are in messages."""
    if sample_id is None:
        return NO_ID
    digest = hashlib.blake2b(str(sample_id).encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little") or 1


def find_duplicates(hashes: np.ndarray, *, most: int, together: int = TOGETHER) -> Duplicates:
    """Samples whose id an earlier one has, the first `most` of them by name.

    Args:
        hashes: uint64[samples], usually a memory map, which is read once for every `together` samples.
        together: about how many hashes are in memory at a time.
    """
    groups = -(-len(hashes) // together)
    samples, first = 0, list[Repeated]()
    for group in range(groups):
        rows, values = _of_group(hashes, group, groups)
        order = np.lexsort((rows, values))
        rows, values = rows[order], values[order]
        again = np.flatnonzero(values[1:] == values[:-1]) + 1
        samples += len(again)
        earliest = again[np.argsort(rows[again])[:most]]
        begins = np.searchsorted(values, values[earliest])
        first += [Repeated(int(rows[at]), int(rows[begin])) for at, begin in zip(earliest, begins, strict=True)]
    return Duplicates(samples, tuple(sorted(first)[:most]))


def _of_group(hashes: np.ndarray, group: int, groups: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and hashes of the samples whose hashes fall into a group; equal hashes fall into the same."""
    rows, values = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.uint64)]
    for start in range(0, len(hashes), _CHUNK):
        chunk = np.asarray(hashes[start : start + _CHUNK])
        chosen = np.flatnonzero((chunk % np.uint64(groups) == group) & (chunk != NO_ID))
        rows.append(chosen + start)
        values.append(chunk[chosen])
    return np.concatenate(rows), np.concatenate(values)
