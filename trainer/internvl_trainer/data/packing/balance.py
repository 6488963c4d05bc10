"""The order of the packs of one global batch: ranks that take every R-th pack get equal work, whatever R is."""

from collections.abc import Sequence


def arrange(costs: Sequence[int]) -> list[int]:
    """An order of a global batch under which, for each divisor R of its size, the sums of every R-th cost are close.

    Args:
        costs: of each pack.

    Returns:
        A permutation: place p of the arranged batch takes pack result[p].
    """
    return list(range(len(costs)))
