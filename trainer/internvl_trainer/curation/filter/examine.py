"""One line of a data set, judged by the heuristic rules. Pure: bytes in, flags out."""

from enum import StrEnum
from typing import NamedTuple

from internvl_trainer.curation.filter.policy import MALFORMED, Action, Policy
from internvl_trainer.curation.filter.rules import RULES
from internvl_trainer.data.errors import BadSampleError
from internvl_trainer.data.records import Record, parse_record


class Flag(NamedTuple):
    """A finding, and what the policy does about it."""

    rule: str
    value: float | None
    limit: float | None
    detail: str
    action: Action


class Fate(StrEnum):
    """The files that a line can end in."""

    KEPT = "kept"
    REMOVED = "removed"
    REVIEW = "review"


def fate(flags: tuple[Flag, ...], decision: str | None = None) -> Fate:
    """Where a line goes: a person's decision comes first, then the strictest flag."""
    if decision is not None:
        return Fate.KEPT if decision == "keep" else Fate.REMOVED
    if any(flag.action is Action.REMOVE for flag in flags):
        return Fate.REMOVED
    return Fate.REVIEW if flags else Fate.KEPT


def parsed(line: bytes, source: str, line_number: int) -> Record | BadSampleError:
    """The sample of a line, or why there is none."""
    try:
        return parse_record(line.rstrip(b"\r\n"), source=source, line_number=line_number)
    except BadSampleError as error:
        return error


def examine(line: bytes, source: str, line_number: int, policy: Policy) -> tuple[Flag, ...]:
    """What the rules find in one line, in the order of their table."""
    record = parsed(line, source, line_number)
    if isinstance(record, BadSampleError):
        settings = policy.rule(MALFORMED)
        # Whoever shows a flag says which line it is about.
        detail = str(record).removeprefix(f"sample {record.sample}: ")
        return (Flag(MALFORMED, None, None, detail, settings.action),) if settings.enabled else ()
    exempt, flags = policy.source(source), []
    for rule in RULES:
        settings = policy.rule(rule.name)
        if settings.enabled and not exempt.exempts(rule.name):
            finding = rule.judge(record.turns, settings.limit)
            if finding is not None:
                flags.append(Flag(*finding, settings.action))
    return tuple(flags)
