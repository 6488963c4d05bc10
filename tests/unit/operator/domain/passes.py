"""What one pass of the operator sees, and what it said."""

from dataclasses import replace

from internvl_operator.api.status import ConditionType
from internvl_operator.domain.state import (
    Observed,
)
from tests.property.world import RUN, World


def reason(world: World, kind: ConditionType = ConditionType.PROGRESSING) -> str:
    condition = world.status.condition(kind)
    assert condition is not None
    return condition.reason


def observed(world: World, **changes: object) -> Observed:
    """What a pass sees of a run without children, with `changes`."""
    return replace(Observed(run=RUN, generation=1, status=world.status), **changes)
