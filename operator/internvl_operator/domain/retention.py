"""Which checkpoints of a stage are kept, as the trainer is told, and what of it makes no sense."""

from internvl_operator.api.spec import StageSpec
from internvl_operator.domain.problems import SpecProblem
from internvl_trainer.contract.retention import Retention


def build(stage: StageSpec, where: str) -> tuple[Retention, list[SpecProblem]]:
    """The retention of a stage's checkpoints.

    Args:
        stage: as the user wrote it.
        where: its path in the spec.
    """
    wanted = stage.checkpoint
    problem = _problem(stage)
    problems = [SpecProblem(f"{where}.checkpoint.keepEvery", problem)] if problem else []
    return Retention(keep_last=wanted.keep_last, keep_every=wanted.keep_every), problems


def _problem(stage: StageSpec) -> str | None:
    """Why keepEvery would keep nothing of its own."""
    wanted, kept = stage.checkpoint, stage.checkpoint.keep_every
    if kept is None:
        return None
    if wanted.keep_last is None:
        return f"is {kept}, but without keepLast all checkpoints are kept; give keepLast as well, or leave it out"
    if kept % wanted.every_steps:
        return (
            f"is {kept}, but only multiples of everySteps, {wanted.every_steps}, are saved; use a multiple of "
            f"{wanted.every_steps}"
        )
    if kept > stage.steps:
        return f"is {kept}, but the stage has {stage.steps} steps: none would be kept; use {stage.steps} at most"
    return None
