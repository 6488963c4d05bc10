"""Fencing: which checkpoints of a stage count, when attempts may overlap. Pure.

An attempt that was replaced may still be alive, on a node that nobody reaches, and commit what it has trained since.
Its keys are its own, so nothing is overwritten; but its checkpoint would be the newest of the stage. So each attempt
writes down, before it trains, at which step it began. What earlier attempts committed beyond that step is not part of
the stage's history, whenever it arrived.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import Literal

from pydantic import Field

from internvl_trainer.contract.base import Contract, RunIdentity
from internvl_trainer.contract.gate import Candidate
from internvl_trainer.contract.manifest import ManifestRef
from internvl_trainer.contract.seal import Sealed


class Fence(Contract):
    """Of attempts before `attempt`, checkpoints up to `step` count, no later ones."""

    attempt: int = Field(ge=1)
    step: int = Field(ge=0)


class AttemptRecord(Sealed):
    """Where an attempt began; written once, before its first step."""

    format: Literal["internvl-attempt/v1"] = "internvl-attempt/v1"
    run: RunIdentity
    stage: str
    attempt: int = Field(ge=1)
    created_at: datetime
    resumed_from: ManifestRef | None = Field(default=None, description="absent: the attempt began the stage")
    fences: tuple[Fence, ...] = Field(description="this attempt's, and all that were there when it began; by attempt")


class NewestCheckpoint(Sealed):
    """A hint, written over before each commit: it finds a manifest that a listing which is behind does not show."""

    format: Literal["internvl-newest/v1"] = "internvl-newest/v1"
    manifests: tuple[str, ...] = Field(
        description="URIs: of the manifest that is about to be written, and of the attempt's last one before that"
    )


def with_fence(fences: Iterable[Fence], fence: Fence) -> tuple[Fence, ...]:
    """All fences, one of each attempt, by attempt."""
    by_attempt = {each.attempt: each for each in (*fences, fence)}
    return tuple(by_attempt[attempt] for attempt in sorted(by_attempt))


def admissible(candidates: Iterable[Candidate], fences: Iterable[Fence]) -> list[Candidate]:
    """The candidates that no later attempt has left behind, in the order given."""
    known = list(fences)

    def counts(candidate: Candidate) -> bool:
        return all(candidate.key.step <= fence.step for fence in known if fence.attempt > candidate.key.attempt)

    return [candidate for candidate in candidates if counts(candidate)]
