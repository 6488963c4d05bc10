"""What a heuristic rule is: a measured figure of a conversation, and a limit that a person can move."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from internvl_trainer.data.records import Turn

EXCERPT = 80


class Measured(NamedTuple):
    """A figure, and what of the conversation gave it."""

    value: float
    detail: str


class Finding(NamedTuple):
    """A rule's verdict on one sample that it flags."""

    rule: str
    value: float
    limit: float
    detail: str


@dataclass(frozen=True)
class Rule:
    """One heuristic. `measure` is pure and looks at nothing but the turns.

    Attributes:
        name: how the policy and the report call it.
        description: what it measures, for people.
        unit: of the value and the limit.
        limit: a sample is flagged beyond it; at the limit itself it is not.
        is_minimum: flagged below the limit, not above it.
        is_repetition: data sets that are exempt from repetition detection are exempt from it.
    """

    name: str
    description: str
    unit: str
    limit: float
    measure: Callable[[Sequence[Turn]], Measured]
    is_minimum: bool = False
    is_repetition: bool = False

    def judge(self, turns: Sequence[Turn], limit: float | None = None) -> Finding | None:
        """The finding, if a conversation is beyond the limit (default: the rule's own)."""
        bound = self.limit if limit is None else limit
        value, detail = self.measure(turns)
        beyond = value < bound if self.is_minimum else value > bound
        return Finding(self.name, round(value, 4), bound, detail) if beyond else None


def answers(turns: Sequence[Turn]) -> list[str]:
    """The texts that are learned."""
    return [turn.text for turn in turns if turn.role == "gpt"]


def largest(measurements: Sequence[Measured]) -> Measured:
    """The first of those with the largest value; 0 where there is none."""
    return max(measurements, key=lambda measured: measured.value, default=Measured(0.0, ""))


def excerpt(text: str) -> str:
    """The beginning of a text, on one line."""
    line = " ".join(text[: 2 * EXCERPT].split())
    return line if len(line) <= EXCERPT else f"{line[: EXCERPT - 3]}..."
