"""What the released trainer does to the lines of a data set before it packs them, for comparison with it.

Source: the released behaviour of OpenGVLab/InternVL. Only `reference_repeat` is used in training, where a stage asks
for it by `repeat_mode: reference`.
"""

import numpy as np

from internvl_trainer.data.errors import MetaError


def reference_repeat(lines: int, repeat_time: float) -> int:
    """How many lines the released trainer keeps of a data set: line d % lines for each d below this number.

    Below 1 the first ones, the product rounded down in binary floating point; at 1 all; above 1 as often as a whole
    number says.

    Raises:
        MetaError: above 1 the released trainer takes nothing but a number written without a fraction, not even 2.0.
    """
    if repeat_time > 1 and not isinstance(repeat_time, int):
        raise MetaError(
            f"repeat_time is {repeat_time!r}; above 1 the released trainer takes whole numbers alone, written without "
            "a point; write one, or set repeat_mode: exact"
        )
    return int(lines * repeat_time)


def reference_shuffle(lines: int, dataset: int) -> list[int]:
    """Where the lines of a data set, after repeats, stand in packed mode: place p holds line result[p].

    The order comes from NumPy's own generator, seeded with the data set's place in the meta JSON, and so may change
    with NumPy.
    """
    order = list(range(lines))
    np.random.default_rng(dataset).shuffle(order)
    return order


def reference_stride(lines: int, worker: int, workers: int) -> range:
    """Which places of the shuffled lines one of all loader processes takes."""
    return range(worker, lines, workers)
