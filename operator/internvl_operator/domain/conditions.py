"""Setting conditions: metav1 rules, in one place."""

from datetime import datetime
from typing import Literal

from internvl_operator.api.base import cut
from internvl_operator.api.reasons import Reason
from internvl_operator.api.status import Condition, ConditionType


def put(
    conditions: tuple[Condition, ...],
    kind: ConditionType,
    status: Literal["True", "False", "Unknown"],
    reason: Reason,
    message: str,
    *,
    generation: int,
    now: datetime,
) -> tuple[Condition, ...]:
    """The conditions with one of them set; its transition time moves only when `status` changes.

    The order is that of `ConditionType`, so that equal conditions make equal tuples.
    """
    before = next((condition for condition in conditions if condition.type is kind), None)
    unchanged = before is not None and before.status == status
    after = Condition(
        type=kind,
        status=status,
        observed_generation=generation,
        last_transition_time=before.last_transition_time if before is not None and unchanged else now,
        reason=reason,
        message=cut(message),
    )
    others = [condition for condition in conditions if condition.type is not kind]
    return tuple(sorted([*others, after], key=lambda condition: list(ConditionType).index(condition.type)))
