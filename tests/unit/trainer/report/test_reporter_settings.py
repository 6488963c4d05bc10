"""What the reporter refuses, and what it does without an operator."""

from datetime import UTC, datetime

import pytest

from internvl_trainer.contract.job import ProgressConfig
from internvl_trainer.contract.progress import ProgressReport
from internvl_trainer.train.report import InsecureProgressUrlError, ProgressReporter

pytestmark = pytest.mark.unit


def test_without_an_operator_nothing_happens() -> None:
    report = ProgressReport(
        run_uid="uid", stage="stage1", attempt=1, step=1, total_steps=2, reported_at=datetime.now(UTC)
    )
    with ProgressReporter(None) as reporter:
        reporter.submit(report)


def test_a_token_is_never_sent_without_tls() -> None:
    with pytest.raises(InsecureProgressUrlError, match="over https only"):
        ProgressReporter(ProgressConfig(url="http://operator/v1/progress", token_file="/var/run/token"))
