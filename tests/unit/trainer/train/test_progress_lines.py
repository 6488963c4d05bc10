"""Progress as people and the operator see it."""

from datetime import UTC, datetime

import pytest

from internvl_trainer.checkpoint.state import StepMetrics, TrainState
from internvl_trainer.contract.data_position import DataPosition
from internvl_trainer.contract.job import JobConfig
from internvl_trainer.contract.progress import ProgressReport
from internvl_trainer.train import live, progress
from internvl_trainer.train.observers import Reporting
from internvl_trainer.train.report import ProgressReporter
from tests.integration.trainer.world import job

pytestmark = pytest.mark.unit

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def metrics(step: int, seconds: float) -> StepMetrics:
    return StepMetrics(
        step=step, loss=2.5, grad_norm=1.25, learning_rate=4e-5, tokens=1000, tiles=20, seconds=seconds
    )  # fmt: skip


@pytest.fixture
def hundred_steps(tmp_path) -> JobConfig:
    return job(tmp_path, tmp_path, optimization={"steps": 100})


def test_rates_and_time_left_follow_the_last_steps_only(hundred_steps: JobConfig) -> None:
    slow_start = [metrics(1, 60.0)]
    steady = [metrics(step, 2.0) for step in range(2, 21)]
    status = progress.report(hundred_steps, slow_start + steady, NOW)
    assert status.tokens_per_second == pytest.approx(500)
    assert status.tiles_per_second == pytest.approx(10)
    assert status.eta_seconds == pytest.approx(80 * 2.0)
    assert (status.step, status.total_steps, status.loss) == (20, 100, 2.5)


def test_the_line_says_all_that_one_asks_of_a_run(hundred_steps: JobConfig) -> None:
    steps = [metrics(1, 2.0)]
    assert progress.line(progress.report(hundred_steps, steps, NOW), steps[-1]) == (
        "step 1/100  loss 2.5000  500 tok/s  10.0 tiles/s  padding 2.3 %  eta 0:03:18  "
        "grad 1.250  lr 4.000e-05  2.00 s/step"
    )


def test_a_step_that_took_no_measurable_time_makes_no_division_by_zero(hundred_steps: JobConfig) -> None:
    status = progress.report(hundred_steps, [metrics(1, 0.0)], NOW)
    assert status.eta_seconds == pytest.approx(0, abs=1e-3)


def test_padding_is_the_share_of_the_packs_capacity_that_no_token_fills(hundred_steps: JobConfig) -> None:
    capacity = hundred_steps.optimization.global_batch * hundred_steps.data.pack_tokens
    full, half = (metrics(1, 1.0).model_copy(update={"tokens": tokens}) for tokens in (capacity, capacity // 2))
    assert progress.report(hundred_steps, [full], NOW).padding == 0
    assert progress.report(hundred_steps, [full, half], NOW).padding == pytest.approx(0.25)


def test_a_report_survives_the_way_through_a_workers_output(hundred_steps: JobConfig) -> None:
    report = progress.report(hundred_steps, [metrics(1, 1.0)], NOW)
    line = live.record(report).encode()
    assert line.count(b"\n") == 1
    assert live.parse(line.rstrip(b"\n")) == report


@pytest.mark.parametrize("line", [b"", b"step 1/100  loss 2.5", b'{"step": 1}', b"\x1e", b"\x1e{half a rep"])
def test_any_other_line_is_no_report(line: bytes) -> None:
    assert live.parse(line) is None


@pytest.mark.parametrize("to_terminal", [True, False])
def test_steps_go_to_the_terminal_or_into_the_log_and_always_to_the_operator(
    hundred_steps: JobConfig, to_terminal: bool, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    told: list[ProgressReport] = []
    with ProgressReporter(None) as reporter, caplog.at_level("INFO"):
        reporter.submit = told.append  # type: ignore[method-assign]
        observer = Reporting(hundred_steps, reporter, to_terminal=to_terminal)
        observer.stepped(TrainState(step=1, tokens=1000, data=DataPosition(packs=2), metrics=(metrics(1, 2.0),)))
    assert [report.step for report in told] == [1]
    written = capsys.readouterr().out.encode()
    assert ([live.parse(line) for line in written.splitlines()] == told) is to_terminal
    assert ("step 1/100" in caplog.text) is not to_terminal


@pytest.mark.parametrize(("limit", "expected"), [(20_000, 20), (20_001, 21), (35_500, 36), (10**9, 100), (500, 20)])
def test_where_tokens_end_the_stage_its_last_step_is_estimated(tmp_path, limit: int, expected: int) -> None:
    config = job(tmp_path, tmp_path, optimization={"steps": 100, "stop_after_tokens": limit})
    status = progress.report(config, [metrics(step, 2.0) for step in range(1, 21)], NOW)
    assert status.total_steps == expected
    assert status.eta_seconds == pytest.approx((expected - 20) * 2.0)
