"""What a weighted loss is divided by. Pure."""

from collections.abc import Sequence
from typing import Literal

LossDenominator = Literal["global-batch", "micro-step"]


def loss_scales(weights: Sequence[float], denominator: LossDenominator) -> tuple[float, ...]:
    """The factor of sum(weight * cross entropy) of each micro-step; the loss is the sum over micro-steps and ranks.

    Args:
        weights: for each micro-step of a global batch, the loss weights of all its tokens on all data-parallel ranks.
        denominator: `global-batch` divides by all weights of the global batch, so the loss is one weighted mean over
            its tokens at any process grid. `micro-step` follows the released recipes: on each rank a micro-step is
            divided by the mean over ranks of that micro-step's weights, and the results are averaged over ranks and
            micro-steps; a token then counts more where its micro-step has little weight, and the loss depends on the
            number of data-parallel ranks. A micro-step without any weight is undefined there; here it contributes 0
            and still counts as one of those averaged.

    Raises:
        ZeroDivisionError: no micro-step has any weight.
    """
    if denominator == "global-batch":
        return (1.0 / sum(weights),) * len(weights)
    if not any(weights):
        raise ZeroDivisionError("no micro-step has loss weight")
    # 1 / (mean over ranks * ranks * micro-steps): the number of ranks cancels out.
    return tuple(1.0 / (weight * len(weights)) if weight else 0.0 for weight in weights)
