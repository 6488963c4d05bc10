"""A job's `attention` reaches the layers of the model, and what it trains does not depend on it."""

from pathlib import Path
from typing import Any

import pytest

from internvl_trainer.contract.manifest import ParallelLayout
from internvl_trainer.engine.megatron import MegatronEngine
from internvl_trainer.engine.parallel import Place
from internvl_trainer.model.attention.core import SegmentAttention
from internvl_trainer.model.attention.selection import AttentionUnavailableError
from tests.integration.trainer import cases
from tests.integration.trainer.grid import on_grid
from tests.integration.trainer.packs import IMAGE
from tests.integration.trainer.world import job

pytestmark = pytest.mark.integration

GRID = ParallelLayout(tensor=2)
STEPS = 3


def kernels(place: Place, **settings: Any) -> tuple[set[str], str]:
    """What the layers of both parts run, and what the engine says that they run; or the refusal."""
    try:
        engine = MegatronEngine(job(Path(), Path(), layout=GRID.model_dump(), **settings), place, image_token=IMAGE)
    except AttentionUnavailableError as error:
        return set(), str(error)
    modules = engine.model.modules()
    return {type(each.kernel).__name__ for each in modules if isinstance(each, SegmentAttention)}, str(engine.attention)


def test_the_reference_trains_as_torchs_kernels_do(tmp_path: Path) -> None:
    jobs = [job(tmp_path, tmp_path, layout=GRID.model_dump(), attention=name) for name in ("torch", "reference")]
    for by_torch, by_reference in on_grid(GRID, cases.train, jobs, STEPS):
        for ours, theirs in zip(by_torch.steps, by_reference.steps, strict=True):
            assert ours.loss == pytest.approx(theirs.loss, rel=1e-5)
            assert ours.grad_norm == pytest.approx(theirs.grad_norm, rel=1e-4)


def test_every_layer_runs_what_the_job_asks_for() -> None:
    assert (
        on_grid(GRID, kernels, attention="reference")
        == [({"Reference"}, "reference over packs, reference inside tiles")] * GRID.world
    )


def test_every_rank_refuses_what_cannot_run_in_float32() -> None:
    for found, refusal in on_grid(GRID, kernels, attention="flash-attention-2"):
        assert not found
        assert "attention is 'flash-attention-2', which cannot run here" in refusal
