"""Seeded draws that are the same on every machine and with every version of every library.

NumPy does not promise that a `Generator` yields the same stream in its next version, and a stage that resumes on a
newer image must see the order it began with. So the few draws of the data path come from SplitMix64 (Steele, Lea and
Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014), used as a counter-based hash.
"""

from enum import IntEnum

import numpy as np
import numpy.typing as npt

_INCREMENT = np.uint64(0x9E3779B97F4A7C15)
_MULTIPLIERS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))

_ROUNDS = 8


class Purpose(IntEnum):
    """What a seed is used for: the second part of a key, so that no two draws share a stream."""

    ORDER = 1
    """Of the samples of an epoch."""
    REPEAT = 2
    """Which part of a data set a fraction of its repeats is."""
    JPEG = 3
    """Quality of augmented tiles."""
    PACKS = 4
    """Order of the packs of a window."""


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


def shuffle_keys(*key: int) -> npt.NDArray[np.uint64]:
    """What `shuffled` needs of a key, uint64[rounds]."""
    return draw(_ROUNDS, *key)


def shuffled(positions: np.ndarray, counts: int | np.ndarray, keys: npt.NDArray[np.uint64]) -> np.ndarray:
    """What stands at some positions of a seeded permutation, without making the whole of it.

    A Feistel network on two numbers whose moduli are about the square root of `counts`. Their product is a little more
    than `counts`; what falls outside is enciphered again until it is inside (Black and Rogaway, "Ciphers with arbitrary
    finite domains", CT-RSA 2002), which keeps the map one to one.

    Args:
        positions: int64[n], each in 0..counts-1.
        counts: size of the permutation; int64[n] where each position belongs to one of its own.
        keys: uint64[rounds] of `shuffle_keys`, or uint64[rounds, n].

    Returns:
        int64[n], each in 0..counts-1.
    """
    count = np.broadcast_to(np.asarray(counts, dtype=np.uint64), positions.shape)
    keys = np.broadcast_to(keys.reshape(_ROUNDS, -1), (_ROUNDS, len(positions)))
    value = positions.astype(np.uint64)
    outside = np.arange(len(positions))
    while len(outside):
        value[outside] = _encipher(value[outside], count[outside], keys[:, outside])
        outside = outside[value[outside] >= count[outside]]
    return value.astype(np.int64)


def _encipher(
    value: npt.NDArray[np.uint64], count: npt.NDArray[np.uint64], keys: npt.NDArray[np.uint64]
) -> npt.NDArray[np.uint64]:
    """One pass through the network: a permutation of 0..width*height-1, where width * height >= count."""
    width = np.sqrt(count).astype(np.uint64) + np.uint64(1)
    height = (count + width - np.uint64(1)) // width
    left, right = value % width, value // width
    for number in range(0, _ROUNDS, 2):
        left = (left + _mix(right + keys[number]) % width) % width
        right = (right + _mix(left + keys[number + 1]) % height) % height
    enciphered: npt.NDArray[np.uint64] = right * width + left
    return enciphered
