"""Counting faults while they come in: numbers and the first of each reason, never all of them."""

from collections import Counter, defaultdict
from collections.abc import Iterable

from internvl_trainer.curation.check.document import Fault

FIRST = 3
"""Faults of each reason that are shown."""


class Tally:
    """How often each reason occurs in each data set."""

    def __init__(self) -> None:
        self._counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._first: defaultdict[str, list[Fault]] = defaultdict(list)

    def add(self, faults: Iterable[Fault]) -> None:
        """Count them, and keep those that are among the first of their reason."""
        for fault in faults:
            self._counts[fault.source][fault.reason] += 1
            if len(self._first[fault.reason]) < FIRST:
                self._first[fault.reason].append(fault)

    def add_unseen(self, source: str, reason: str, count: int, first: Iterable[Fault]) -> None:
        """Count faults of which only the first are at hand."""
        if count:
            self._counts[source][reason] += count
            kept = self._first[reason]
            kept += list(first)[: FIRST - len(kept)]

    def of(self, source: str) -> dict[str, int]:
        """Counts of a data set by reason, most frequent first."""
        return dict(self._counts[source].most_common())

    @property
    def total(self) -> int:
        """Of all data sets and reasons."""
        return sum(counts.total() for counts in self._counts.values())

    @property
    def first(self) -> list[Fault]:
        """The first ones of each reason, the most frequent reason first."""
        everywhere = sum(self._counts.values(), start=Counter[str]())
        return [fault for reason, _ in everywhere.most_common() for fault in self._first[reason]]


def is_within(bad: int, samples: int, max_bad_fraction: float) -> bool:
    """Whether a stage would begin with a data set, which takes at least one good sample."""
    return bad <= max_bad_fraction * samples and bad < samples
