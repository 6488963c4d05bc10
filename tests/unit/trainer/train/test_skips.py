"""How many samples may be left out, and how the log speaks of them."""

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internvl_trainer.contract.data_position import DataPosition
from internvl_trainer.data.errors import ImageSizeMismatchError, ImageUnreadableError, TooManyBadSamplesError
from internvl_trainer.data.pack import Pack, blank
from internvl_trainer.train.skips import SkipLog, check_budget

pytestmark = pytest.mark.unit


def refuses(skipped: int, samples: int, fraction: float) -> bool:
    try:
        check_budget(DataPosition(samples=samples, skipped=skipped), fraction)
    except TooManyBadSamplesError:
        return True
    return False


@pytest.mark.parametrize(
    ("skipped", "samples", "fraction", "too_many"),
    [
        (10, 10, 0.01, False),  # ten are always allowed
        (11, 11, 0.01, True),
        (50, 5000, 0.01, False),
        (51, 5000, 0.01, True),
        (51, 5199, 0.01, False),
        (1, 10**9, 0.0, True),  # unless none is
        (0, 0, 0.0, False),
        (11, 11, 1.0, False),
    ],
)
def test_a_share_of_what_was_seen_may_be_left_out_and_ten_at_any_time(
    skipped: int, samples: int, fraction: float, too_many: bool
) -> None:
    assert refuses(skipped, samples, fraction) == too_many


@given(st.integers(0, 10_000), st.integers(0, 100_000), st.floats(0, 1))
def test_one_more_left_out_sample_never_makes_a_refusal_disappear(skipped: int, samples: int, fraction: float) -> None:
    assert refuses(skipped, samples, fraction) <= refuses(skipped + 1, samples, fraction)


def pack(index: int, *faults: str) -> Pack:
    """A pack that lost these samples."""
    skipped = tuple(ImageUnreadableError(name, "image x.png cannot be decoded") for name in faults)
    return blank(index, 8, (tuple(range(len(faults))), skipped))


def test_the_log_names_the_first_few_in_words_and_counts_all_by_reason(caplog: pytest.LogCaptureFixture) -> None:
    log = SkipLog()
    odd = ImageSizeMismatchError("set:7 (set.jsonl line 8)", "image y.png gives 7 tiles")
    with caplog.at_level(logging.WARNING):
        log.note([pack(0), pack(1)])
        assert not caplog.messages
        log.note(
            [pack(4, *(f"set:{n} (set.jsonl line {n + 1})" for n in range(4))), pack(5), blank(6, 8, ((0,), (odd,)))]
        )
        log.note([pack(9, "set:8", "set:9")])
    assert caplog.messages == [
        *(f"left out: sample set:{n} (set.jsonl line {n + 1}): image x.png cannot be decoded" for n in range(4)),
        "left out: sample set:7 (set.jsonl line 8): image y.png gives 7 tiles",
        "packs 4, 6: left out 4 image unreadable, 1 image size differs from the record; "
        "this process has left out 5 by now",
        "packs 9: left out 2 image unreadable; this process has left out 7 by now",
    ]
