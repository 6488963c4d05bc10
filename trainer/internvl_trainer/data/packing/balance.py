"""The order of the packs of one global batch: ranks that take every R-th pack get equal work, whatever R is."""

from collections.abc import Sequence

import numpy as np

_FINENESS = 2**20
"""Steps into which the largest cost is divided: what is left is integers small enough to be added up without loss."""

_TAKEN = 2**62
"""Load of a place that has its pack: more than any free one can come to, and far from the end of 64 bits."""


def arrange(costs: Sequence[int]) -> list[int]:
    """An order of a global batch under which, for each divisor R of its size, the sums of every R-th cost are close.

    Packs are placed one by one, the dearest first, each where the sums that it would join are smallest: of all the
    classes of places that lie R apart, over all divisors R, each sum taken as a share of its class's fair one. With
    two packs or more a rank this leaves the ranks within a few percent; with one, nothing can be done.

    Args:
        costs: of each pack, above 0.

    Returns:
        A permutation: place p of the arranged batch takes pack result[p].
    """
    size = len(costs)
    strides = [stride for stride in range(2, size + 1) if size % stride == 0]
    dearest = max(costs, default=1)
    scaled = [int(cost * _FINENESS // dearest) for cost in costs]
    load = np.zeros(size, dtype=np.int64)
    places = [0] * size
    for pack in sorted(range(size), key=lambda pack: (-scaled[pack], pack)):
        place = int(load.argmin())
        places[place] = pack
        for stride in strides:
            load[place % stride :: stride] += scaled[pack] * stride
        load[place] = _TAKEN
    return places
