"""How things stand with the stage whose turn it is, in the form that conditions and Events are made of."""

from dataclasses import dataclass

from internvl_operator.api.reasons import Reason


@dataclass(frozen=True)
class Situation:
    """One reason, said to people, and when to look again."""

    reason: Reason
    message: str
    failed: bool = False
    """Whether the run has ended here, for `reason`."""
    look_again: float | None = None
    """Seconds after which time alone may have changed the situation; None: only an event can."""


def failed(reason: Reason, message: str) -> Situation:
    """The run cannot go on."""
    return Situation(reason, message, failed=True)
