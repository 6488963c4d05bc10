"""The real engine goes on after a resume as if nothing had happened, on whatever grid it is resumed."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from internvl_trainer.contract import catalog
from internvl_trainer.contract.base import Component
from internvl_trainer.contract.job import JobConfig
from internvl_trainer.contract.manifest import ManifestRef, ParallelLayout
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


def _job(store: Path, layout: ParallelLayout, attempt: int = 1, *, precision: str = "fp32", **parts: Any) -> JobConfig:
    settings = {"global_batch": 4, "drop_path": 0.3, "steps": STEPS, "precision": precision}
    return job(store, store, layout=layout.model_dump(), attempt=attempt, optimization=settings, **parts)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def original(store: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[ManifestRef, list[StepResult]]:
    """A checkpoint, and the steps after it by the job that wrote it."""
    scratch = tmp_path_factory.mktemp("scratch")
    return on_grid(SAVED, engine_cases.train_through, _job(store, SAVED), scratch, SAVE_AT)[0]


@pytest.mark.parametrize("layout", GRIDS, ids=lambda grid: f"tp{grid.tensor}-pp{grid.pipeline}-dp{grid.data}")
def test_a_resumed_job_takes_the_same_steps(
    layout: ParallelLayout, original: tuple[ManifestRef, list[StepResult]], store: Path, tmp_path: Path
) -> None:
    for resumed in on_grid(layout, engine_cases.resume_and_finish, _job(store, layout, attempt=2), tmp_path):
        assert len(resumed) == STEPS - SAVE_AT
        for ours, theirs in zip(resumed, original[1], strict=True):
            # On the same grid bit for bit; on another one sums are taken in another order.
            tolerance = 0.0 if layout == SAVED else 1e-5
            assert ours.loss == pytest.approx(theirs.loss, rel=tolerance, abs=0)
            assert ours.grad_norm == pytest.approx(theirs.grad_norm, rel=10 * tolerance, abs=0)


def test_a_bf16_job_goes_on_bit_for_bit(tmp_path: Path) -> None:
    layout = ParallelLayout(tensor=2)
    first, second = (_job(tmp_path / "store", layout, attempt, precision="bf16") for attempt in (1, 2))
    _, through = on_grid(layout, engine_cases.train_through, first, tmp_path, SAVE_AT)[0]
    assert on_grid(layout, engine_cases.resume_and_finish, second, tmp_path) == [through] * 2


def test_a_smaller_model_starts_from_the_vit_of_a_larger_one(
    original: tuple[ManifestRef, list[StepResult]], store: Path, tmp_path: Path
) -> None:
    single = ParallelLayout()
    (trained,) = on_grid(single, engine_cases.resumed_vision, _job(store, single, attempt=2), tmp_path)
    smaller = _job(
        tmp_path,
        single,
        run={"uid": "uid-2", "namespace": "default", "name": "smaller"},
        model=catalog.get("tiny-1b-like").model_dump(),
        init={Component.VISION: original[0]},
    )
    ((started, losses),) = on_grid(single, engine_cases.vision_from_another_run, smaller, tmp_path)
    assert started.keys() == trained.keys()
    assert all(np.array_equal(started[name], trained[name]) for name in trained)
    assert losses[-1] < losses[0], "it learns from there, on the same pack again and again"
