"""When a loss is too far above the recent ones to be trained on. Pure."""

from collections.abc import Sequence

from internvl_trainer.checkpoint.state import StepMetrics

WINDOW = 20
"""Steps whose mean loss a new one is compared with. Before there are as many, no loss is a spike."""


def loss_limit(metrics: Sequence[StepMetrics], factor: float | None) -> float | None:
    """The largest loss that the next step may have: `factor` times the mean of the last steps; None for no limit.

    Args:
        metrics: of the stage's steps, oldest first.
        factor: `optimization.spike_limit`.
    """
    recent = metrics[-WINDOW:]
    if factor is None or len(recent) < WINDOW:
        return None
    return factor * sum(each.loss for each in recent) / WINDOW
