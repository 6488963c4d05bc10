"""Loss reweighting: how much one supervised token counts, by the number of supervised tokens of its sample."""

from typing import Literal

LossReweighting = Literal["token", "sample", "square"]

_EXPONENTS: dict[str, float] = {"token": 0.0, "sample": -1.0, "square": -0.5}


def token_weights(supervised_tokens: int, mode: LossReweighting) -> float:
    """The weight x**0, x**-1 or x**-0.5 of each of a sample's x supervised tokens; 0 for a sample without any.

    Source: InternVL-2.5 report, section 3.4. x counts all answers of a conversation together, as the released models
    were trained, so a weight depends on the sample alone and never on the pack it lands in.

    Raises:
        ValueError: an unknown mode.
    """
    if mode not in _EXPONENTS:
        raise ValueError(f"loss reweighting is {mode!r}; known modes: {', '.join(_EXPONENTS)}")
    return float(supervised_tokens) ** _EXPONENTS[mode] if supervised_tokens else 0.0
