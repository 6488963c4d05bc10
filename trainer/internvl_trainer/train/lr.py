"""The learning rate as a pure function of the step."""

import math


def cosine(step: int, *, peak: float, warmup_steps: int, total_steps: int, minimum: float = 0.0) -> float:
    """Linear warm-up from zero, then half a cosine down to `minimum`.

    Args:
        step: 0-based optimizer step that the rate is for.
        peak: rate at the end of the warm-up.
        warmup_steps: steps of the warm-up; step 0 of a warm-up has rate 0.
        total_steps: length of warm-up and cosine together; from there on the rate is `minimum`.

    Source: the schedule of the released InternVL-2.5 scripts, for which `minimum` is 0.
    """
    if step < warmup_steps:
        return peak * step / warmup_steps
    progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    return minimum + (peak - minimum) * 0.5 * (1.0 + math.cos(math.pi * progress))
