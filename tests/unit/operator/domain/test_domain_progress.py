"""Progress at the end of a run: what the verified manifest says wins over the last report."""

from datetime import UTC, datetime

import pytest

from internvl_operator.api.status import Progress, StageStatus
from internvl_operator.domain import progress

pytestmark = pytest.mark.unit

LAST_REPORT = Progress(
    stage="stage2", attempt=1, step=7, total_steps=8, percent=87, steps="7/8", loss="2.5", eta_seconds=3, eta="3s",
    last_report_time=datetime(2026, 1, 1, tzinfo=UTC),
)  # fmt: skip


def test_a_run_that_is_done_shows_all_of_its_steps() -> None:
    ended = progress.at_end(LAST_REPORT, StageStatus(name="stage2", steps=8, last_loss="2.4"))
    assert ended is not None
    assert (ended.steps, ended.percent, ended.loss, ended.eta) == ("8/8", 100, "2.4", "0s")


def test_what_an_earlier_stage_reported_is_left_alone() -> None:
    assert progress.at_end(LAST_REPORT, StageStatus(name="stage3", steps=8)) == LAST_REPORT
    assert progress.at_end(None, StageStatus(name="stage2", steps=8)) is None
