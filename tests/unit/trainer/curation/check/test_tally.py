"""Faults are counted while they come in, and the first of each reason is kept."""

import pytest

from internvl_trainer.curation.check.document import Fault
from internvl_trainer.curation.check.tally import FIRST, Tally, is_within

pytestmark = pytest.mark.unit


def fault(line: int, reason: str, source: str = "emoji") -> Fault:
    return Fault(source=source, file="emoji.jsonl", line=line, id=None, reason=reason, detail="...")


def test_all_count_and_the_first_of_each_reason_are_kept_the_most_frequent_reason_first() -> None:
    tally = Tally()
    tally.add([fault(1, "rare")])
    tally.add(fault(line, "frequent") for line in range(2, 50))
    tally.add([fault(60, "frequent", source="shapes")])
    assert tally.of("emoji") == {"frequent": 48, "rare": 1}
    assert tally.of("shapes") == {"frequent": 1}
    assert tally.of("other") == {}
    assert tally.total == 50
    assert [each.line for each in tally.first] == [*range(2, 2 + FIRST), 1]


def test_faults_may_be_counted_that_nobody_listed() -> None:
    tally = Tally()
    tally.add_unseen("emoji", "id used before", 1_000_000, [fault(line, "id used before") for line in range(9)])
    tally.add_unseen("emoji", "other", 0, [])
    assert tally.of("emoji") == {"id used before": 1_000_000}
    assert len(tally.first) == FIRST


@pytest.mark.parametrize(
    ("bad", "samples", "limit", "within"),
    [
        (1, 100, 0.01, True),
        (2, 100, 0.01, False),
        (0, 5, 0, True),
        (1, 1000, 0, False),
        (5, 5, 1, False),
        (4, 5, 1, True),
    ],
)
def test_the_budget_is_that_of_a_stage(bad: int, samples: int, limit: float, within: bool) -> None:
    assert is_within(bad, samples, limit) is within
