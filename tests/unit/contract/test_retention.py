"""Which checkpoints of a stage are let go."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internvl_trainer.contract.gate import Candidate
from internvl_trainer.contract.keys import CheckpointKey
from internvl_trainer.contract.retention import Kept, Retention, superseded

pytestmark = pytest.mark.unit


def kept(step: int, attempt: int = 1, *, final: bool = False, held: bool = False) -> Kept:
    return Kept(Candidate(CheckpointKey("stage1", step, attempt), f"{step}/a{attempt}"), final=final, held=held)


def gone(checkpoints: list[Kept], **policy: int) -> list[str]:
    return [candidate.uri for candidate in superseded(checkpoints, Retention(**policy))]


def test_without_a_policy_everything_stays() -> None:
    assert gone([kept(1), kept(2)]) == []
    assert gone([kept(1), kept(2)], keep_every=5) == []


def test_the_last_stay_and_the_rest_goes_oldest_first() -> None:
    assert gone([kept(30), kept(10), kept(40), kept(20)], keep_last=2) == ["10/a1", "20/a1"]


def test_milestones_stay() -> None:
    assert gone([kept(step) for step in range(10, 70, 10)], keep_last=1, keep_every=30) == [
        "10/a1",
        "20/a1",
        "40/a1",
        "50/a1",
    ]


def test_what_others_start_from_stays() -> None:
    assert gone([kept(10, held=True), kept(20, final=True), kept(30), kept(40)], keep_last=1) == ["30/a1"]


def test_twins_of_one_step_count_once_and_stay_or_go_together() -> None:
    assert gone([kept(10), kept(20, 1), kept(20, 2), kept(30, 2)], keep_last=2) == ["10/a1"]
    assert gone([kept(20, 1), kept(20, 2), kept(30, 2)], keep_last=1) == ["20/a1", "20/a2"]


STOCK = st.lists(
    st.builds(
        kept,
        st.integers(1, 30),
        st.integers(1, 3),
        final=st.booleans(),
        held=st.booleans(),
    ),
    unique_by=lambda each: each.candidate.key,
)


@given(STOCK, st.integers(1, 5), st.none() | st.integers(1, 10))
def test_whatever_the_policy_the_newest_and_all_that_is_held_stay_and_applying_it_twice_changes_nothing(
    stock: list[Kept], last: int, every: int | None
) -> None:
    policy = Retention(keep_last=last, keep_every=every)
    let_go = set(superseded(stock, policy))
    left = [each for each in stock if each.candidate not in let_go]
    assert all(not each.final and not each.held for each in stock if each.candidate in let_go)
    steps = sorted({each.candidate.key.step for each in stock})
    assert {each.candidate.key.step for each in left} >= set(steps[-last:])
    assert superseded(left, policy) == []
