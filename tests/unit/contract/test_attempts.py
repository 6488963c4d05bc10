"""Fences: what an attempt that was replaced commits late is not part of the stage's history."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internvl_trainer.contract.attempts import Fence, admissible, with_fence
from internvl_trainer.contract.gate import Candidate
from internvl_trainer.contract.keys import CheckpointKey

pytestmark = pytest.mark.unit


def committed(step: int, attempt: int) -> Candidate:
    return Candidate(CheckpointKey("stage1", step, attempt), f"s3://b/step-{step}/a{attempt}/MANIFEST.json")


def test_a_late_checkpoint_of_a_replaced_attempt_does_not_count() -> None:
    """Attempt 1 saved 40 and went on, unreachable; attempt 2 began at 40 and has saved nothing yet."""
    history = [committed(60, 1), committed(40, 1), committed(20, 1)]
    assert admissible(history, [Fence(attempt=1, step=0), Fence(attempt=2, step=40)]) == history[1:]


def test_what_was_passed_over_stays_passed_over() -> None:
    """Step 40 was damaged, so attempt 2 began at 20: its own 30 must not be followed by the other history's 40."""
    history = [committed(40, 1), committed(30, 2), committed(20, 1)]
    assert admissible(history, [Fence(attempt=2, step=20)]) == history[1:]


def test_an_attempts_own_checkpoints_count_however_far_they_are() -> None:
    history = [committed(80, 2)]
    assert admissible(history, [Fence(attempt=1, step=0), Fence(attempt=2, step=0)]) == history


def test_without_records_everything_counts() -> None:
    history = [committed(60, 1), committed(40, 3)]
    assert admissible(history, ()) == history


def test_an_attempt_has_one_fence_the_last_that_is_known() -> None:
    fences = with_fence(with_fence((), Fence(attempt=3, step=9)), Fence(attempt=1, step=0))
    assert with_fence(fences, Fence(attempt=3, step=5)) == (Fence(attempt=1, step=0), Fence(attempt=3, step=5))


@given(st.data())
def test_however_attempts_overlap_the_history_is_one_line_that_each_attempt_continued(data: st.DataObject) -> None:
    """Attempts begin where the newest admissible checkpoint is; every earlier one may go on committing for ever."""
    last: dict[int, int] = {}
    everything: list[Candidate] = []
    fences: tuple[Fence, ...] = ()
    for attempt in range(1, data.draw(st.integers(1, 5)) + 1):
        seen = sorted(admissible(everything, fences), key=lambda each: (each.key.step, each.key.attempt))
        begun = seen[-1].key.step if seen else 0
        fences = with_fence(fences, Fence(attempt=attempt, step=begun))
        last[attempt] = begun
        for late in data.draw(st.lists(st.integers(1, attempt), max_size=8)):
            last[late] += data.draw(st.integers(1, 3))
            everything.append(committed(last[late], late))
        newest = max(admissible(everything, fences), key=lambda each: each.key[1:], default=None)
        if newest is not None:
            ours = [each for each in everything if each.key.attempt == attempt]
            expected = max((each.key.step for each in ours), default=begun)
            assert newest.key.step == expected, "the newest is this attempt's, or what it began from"
