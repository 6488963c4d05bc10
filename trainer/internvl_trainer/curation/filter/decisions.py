"""What a person decided about samples in review: the review file itself, with its `decision` fields filled in."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from internvl_trainer.curation.filter.errors import DecisionError

CHOICES = ("keep", "remove")


class Decision(NamedTuple):
    """One decision, about a line of a data set, or about a sample's id, in a data set or anywhere."""

    choice: str
    source: str | None
    line: int | None
    id: str | None
    sha256: str | None
    place: str


class Decisions:
    """All decisions, and which of them were met."""

    def __init__(self, decisions: Iterable[Decision] = ()) -> None:
        self._by_line: dict[tuple[str, int], Decision] = {}
        self._by_id: dict[tuple[str | None, str], Decision] = {}
        self._met: dict[str, str] = {}
        for decision in decisions:
            self._add(decision)

    @property
    def is_empty(self) -> bool:
        """Whether nothing was decided."""
        return not (self._by_line or self._by_id)

    @property
    def need_ids(self) -> bool:
        """Whether lines have to be parsed for their ids."""
        return bool(self._by_id)

    def about(self, source: str, line: int, sha256: str, id_: str | None) -> str | None:
        """keep, remove, or None where nobody decided.

        Raises:
            DecisionError: the line is not what was decided about, or an id that was decided about is not unique.
        """
        decision = self._by_line.get((source, line))
        if decision is None and id_ is not None:
            decision = self._by_id.get((source, id_)) or self._by_id.get((None, id_))
        if decision is None:
            return None
        if decision.sha256 not in (None, sha256):
            raise DecisionError(
                f"{decision.place}: line {line} of {source} is not the one that was reviewed; review the new data"
            )
        here = f"{source} line {line}"
        if self._met.setdefault(decision.place, here) != here:
            raise DecisionError(
                f"{decision.place}: id {decision.id!r} is that of {self._met[decision.place]} and of {here}; "
                "give source and line"
            )
        return decision.choice

    def check_all_met(self) -> None:
        """After all lines were seen.

        Raises:
            DecisionError: a decision was about a sample that is not there.
        """
        for decision in (*self._by_line.values(), *self._by_id.values()):
            if decision.place not in self._met:
                what = f"id {decision.id!r}" if decision.line is None else f"line {decision.line}"
                where = decision.source or "any data set"
                raise DecisionError(f"{decision.place}: there is no {what} in {where}; remove the decision")

    def _add(self, decision: Decision) -> None:
        known: Decision | None
        if decision.source is not None and decision.line is not None:
            known = self._by_line.setdefault((decision.source, decision.line), decision)
        else:
            known = self._by_id.setdefault((decision.source, str(decision.id)), decision)
        if known is not decision and known.choice != decision.choice:
            raise DecisionError(f"{decision.place}: {decision.choice}, but {known.place} says {known.choice}")


def read_decisions(path: Path) -> Iterator[Decision]:
    """The decisions of a JSONL file; rows without one are left out.

    A row has `decision` (keep, remove or null) and either `source` and `line`, as review.jsonl has them, or `id`.

    Raises:
        DecisionError: unreadable, not JSON, another decision, or nothing that says about which sample.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DecisionError(f"{path} cannot be read: {error}") from error
    for number, row in enumerate(text.split("\n"), 1):
        if row.strip():
            decision = _decision(row, f"{path} line {number}")
            if decision is not None:
                yield decision


def _decision(row: str, place: str) -> Decision | None:
    try:
        fields: Any = json.loads(row)
    except ValueError as error:
        raise DecisionError(f"{place}: is no JSON: {error}") from error
    if not isinstance(fields, dict) or "decision" not in fields:
        raise DecisionError(f"{place}: must be an object with a decision: keep, remove or null")
    choice, source, line, id_ = (fields.get(name) for name in ("decision", "source", "line", "id"))
    if choice is None:
        return None
    if choice not in CHOICES:
        raise DecisionError(f"{place}: decision is {choice!r}; must be keep, remove or null")
    if not (source is None or isinstance(source, str)) or not (line is None or type(line) is int):
        raise DecisionError(f"{place}: source must be a text and line a number")
    if id_ is None and (source is None or line is None):
        raise DecisionError(f"{place}: says not about which sample; give source and line, or id")
    sha256 = fields.get("sha256")
    return Decision(choice, source, line, None if id_ is None else str(id_), sha256, place)
