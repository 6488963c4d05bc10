"""Seeded draws that are the same on every machine and with every version of every library.

NumPy does not promise that a `Generator` yields the same stream in its next version, and a stage that resumes on a
newer image must see the order it began with. So the few draws of the data path come from SplitMix64 (Steele, Lea and
Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014), used as a counter-based hash.
"""

import numpy as np
import numpy.typing as npt

_INCREMENT = np.uint64(0x9E3779B97F4A7C15)
_MULTIPLIERS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


def _mix(z: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    z = (z ^ (z >> np.uint64(30))) * _MULTIPLIERS[0]
    z = (z ^ (z >> np.uint64(27))) * _MULTIPLIERS[1]
    return z ^ (z >> np.uint64(31))


def draw(count: int, *key: int) -> npt.NDArray[np.uint64]:
    """`count` independent uniform uint64 values, a pure function of `key` (integers of any sign, at least one)."""
    state = np.zeros(1, dtype=np.uint64)
    for part in key:
        state = _mix((state ^ np.uint64(part & 0xFFFFFFFFFFFFFFFF)) + _INCREMENT)
    return _mix(state + np.arange(1, count + 1, dtype=np.uint64) * _INCREMENT)


def permutation(count: int, *key: int) -> np.ndarray:
    """A uniform permutation of 0..count-1, int64, a pure function of `key`."""
    return np.argsort(draw(count, *key), kind="stable").astype(np.int64)


def integers(count: int, low: int, high: int, *key: int) -> np.ndarray:
    """`count` uniform integers from low..high inclusive, int64, a pure function of `key`."""
    return (draw(count, *key) % np.uint64(high - low + 1)).astype(np.int64) + low
