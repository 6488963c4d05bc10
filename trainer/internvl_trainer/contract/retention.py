"""Which checkpoints of a stage are kept. Pure."""

from collections.abc import Collection
from typing import NamedTuple

from pydantic import Field

from internvl_trainer.contract.base import Contract
from internvl_trainer.contract.gate import Candidate


class Retention(Contract):
    """Which of a stage's checkpoints are kept besides the last one, pinned ones and those that others start from."""

    keep_last: int | None = Field(default=None, ge=1, description="so many of the newest; absent: all")
    keep_every: int | None = Field(default=None, ge=1, description="and those whose step is a multiple of this")


class Kept(NamedTuple):
    """A committed checkpoint and what speaks for keeping it."""

    candidate: Candidate
    final: bool = False
    """Whether it is its stage's last: the next stage, and other runs, start from it."""
    held: bool = False
    """Whether it is pinned, or something that was published points at it."""


def superseded(checkpoints: Collection[Kept], policy: Retention) -> list[Candidate]:
    """The checkpoints of one stage that the policy lets go, oldest first.

    The newest is always kept, and so are final and held ones; of one step the newest attempt counts for `keep_last`,
    and its elder twins go with the steps that are let go.
    """
    if policy.keep_last is None:
        return []
    steps = sorted({each.candidate.key.step for each in checkpoints}, reverse=True)
    kept = set(steps[: policy.keep_last])
    if policy.keep_every is not None:
        kept |= {step for step in steps if step % policy.keep_every == 0}
    gone = [
        each.candidate for each in checkpoints if each.candidate.key.step not in kept and not (each.final or each.held)
    ]
    return sorted(gone, key=_age)


def _age(candidate: Candidate) -> tuple[int, int]:
    return candidate.key.step, candidate.key.attempt
