"""What can be wrong with a spec, said in one form: the field, the problem with its remedy, and a reason."""

from typing import NamedTuple

from internvl_operator.api.reasons import Reason


class SpecProblem(NamedTuple):
    """One thing that keeps a spec from being run."""

    field: str
    """Path of the field, as the user wrote it; list items by name: spec.stages[stage1].steps."""
    problem: str
    """What is wrong, with the values and the remedy."""
    reason: Reason = Reason.INVALID_SPEC

    def __str__(self) -> str:
        return f"{self.field}: {self.problem}"
