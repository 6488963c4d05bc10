"""The real engine goes on after a resume as if nothing had happened, on whatever grid it is resumed."""

from pathlib import Path

import pytest

from internvl_trainer.contract.job import JobConfig
from internvl_trainer.contract.manifest import ParallelLayout
from internvl_trainer.engine.protocol import StepResult
from tests.integration.checkpoint import engine_cases
from tests.integration.trainer.grid import on_grid
from tests.integration.trainer.world import job

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

SAVED = ParallelLayout(tensor=2, pipeline=2)
GRIDS = [
    ParallelLayout(),
    SAVED,
    ParallelLayout(pipeline=2, data=2),
    ParallelLayout(tensor=2, data=2),
]
SAVE_AT, STEPS = 2, 5


def _job(store: Path, layout: ParallelLayout, attempt: int = 1) -> JobConfig:
    settings = {"global_batch": 4, "drop_path": 0.3, "steps": STEPS}
    return job(store, store, layout=layout.model_dump(), attempt=attempt, optimization=settings)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def through(store: Path, tmp_path_factory: pytest.TempPathFactory) -> list[StepResult]:
    """The steps after the checkpoint, by the job that wrote it."""
    scratch = tmp_path_factory.mktemp("scratch")
    seen = on_grid(SAVED, engine_cases.train_through, _job(store, SAVED), scratch, SAVE_AT)
    return seen[0][1]


@pytest.mark.parametrize("layout", GRIDS, ids=lambda grid: f"tp{grid.tensor}-pp{grid.pipeline}-dp{grid.data}")
def test_a_resumed_job_takes_the_same_steps(
    layout: ParallelLayout, through: list[StepResult], store: Path, tmp_path: Path
) -> None:
    for resumed in on_grid(layout, engine_cases.resume_and_finish, _job(store, layout, attempt=2), tmp_path):
        assert len(resumed) == STEPS - SAVE_AT
        for ours, theirs in zip(resumed, through, strict=True):
            # On the same grid bit for bit; on another one sums are taken in another order.
            tolerance = 0.0 if layout == SAVED else 1e-5
            assert ours.loss == pytest.approx(theirs.loss, rel=tolerance, abs=0)
            assert ours.grad_norm == pytest.approx(theirs.grad_norm, rel=10 * tolerance, abs=0)
