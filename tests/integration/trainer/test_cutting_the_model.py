"""Twenty steps of training are the same wherever the model is cut: along layers, weights or the sequence."""

from pathlib import Path

import pytest

from internvl_trainer.contract.job import JobConfig
from internvl_trainer.contract.manifest import ParallelLayout
from internvl_trainer.engine.protocol import StepResult
from tests.integration.trainer import cases
from tests.integration.trainer.grid import on_grid
from tests.integration.trainer.world import job

pytestmark = pytest.mark.integration

STEPS = 20
WHOLE = {"vision": "whole", "language": "layers"}
LAYERS = {"vision": "layers", "language": "layers"}


def twenty_steps(folder: Path, layout: ParallelLayout, **parts: object) -> JobConfig:
    """A job with drop path, of two packs per step: with and without images, of lengths that divide by nothing."""
    settings = {"global_batch": 2, "drop_path": 0.3, "steps": STEPS}
    return job(folder, folder, layout=layout.model_dump(), optimization=settings, **parts)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> list[StepResult]:
    """The steps in one process."""
    config = twenty_steps(tmp_path_factory.mktemp("single"), ParallelLayout())
    ((trained,),) = on_grid(ParallelLayout(), cases.train, [config], STEPS)
    return trained.steps


@pytest.mark.parametrize(
    ("layout", "partition", "recompute"),
    [
        pytest.param({"tensor": 2, "pipeline": 2}, {}, LAYERS, id="tp2-pp2"),
        pytest.param({"tensor": 2}, {"sequence": True}, LAYERS, id="tp2-sequence"),
        pytest.param({"tensor": 2, "pipeline": 2}, {"sequence": True}, {}, id="tp2-pp2-sequence"),
        pytest.param({"pipeline": 2, "data": 2}, {}, {}, id="pp2-dp2"),
        pytest.param({"pipeline": 3}, {"pipeline_layers": [0, 1, 1]}, WHOLE, id="pp3-vision-alone-on-the-first-stage"),
        pytest.param({"pipeline": 2}, {"pipeline_layers": [2, 0]}, WHOLE, id="pp2-head-alone-on-the-last-stage"),
    ],
)
def test_losses_are_those_of_a_single_process(
    layout: dict[str, int],
    partition: dict[str, object],
    recompute: dict[str, str],
    reference: list[StepResult],
    tmp_path: Path,
) -> None:
    grid = ParallelLayout.model_validate(layout)
    parts = {"partition": partition} | ({"recompute": recompute} if recompute else {})
    for (trained,) in on_grid(grid, cases.train, [twenty_steps(tmp_path, grid, **parts)], STEPS):
        assert [step.loss for step in trained.steps] == pytest.approx([step.loss for step in reference], rel=1e-5)
        assert [step.tokens for step in trained.steps] == [step.tokens for step in reference], "padding is not counted"
    assert reference[-1].loss < 0.8 * reference[0].loss
