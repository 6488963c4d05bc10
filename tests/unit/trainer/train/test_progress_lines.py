"""Progress as people and the operator see it."""

from datetime import UTC, datetime

import pytest

from internvl_trainer.checkpoint.state import StepMetrics
from internvl_trainer.contract.job import JobConfig
from internvl_trainer.train import progress
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
        "step 1/100  loss 2.5000  grad 1.250  lr 4.000e-05  500 tok/s  10.0 tiles/s  2.00 s/step  eta 0:03:18"
    )


def test_a_step_that_took_no_measurable_time_makes_no_division_by_zero(hundred_steps: JobConfig) -> None:
    status = progress.report(hundred_steps, [metrics(1, 0.0)], NOW)
    assert status.eta_seconds == pytest.approx(0, abs=1e-3)
