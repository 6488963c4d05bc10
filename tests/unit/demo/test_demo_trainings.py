"""What the demo applies is accepted, at its own process grids and at others that the e2e runs take."""

from dataclasses import replace

import pytest

from hack.demo.recipe import RUNS, Run
from hack.demo.target import Storage
from hack.demo.trainings import training
from internvl_operator.api.training import InternVLTraining
from internvl_operator.domain.stages import expand
from internvl_trainer.contract.manifest import ParallelLayout

pytestmark = pytest.mark.unit

STORAGE = Storage("s3://bucket", None, None, {})


@pytest.mark.parametrize("pipeline", [1, 2])
@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.name)
def test_every_stage_can_be_laid_out_and_each_pipeline_stage_has_language_layers(run: Run, pipeline: int) -> None:
    cut = replace(run, layout=ParallelLayout(tensor=2, pipeline=pipeline), nodes=2, processes_per_node=pipeline)
    applied = training(cut, namespace="demo", storage=STORAGE, data_uri="s3://bucket/data")
    expansion = expand(InternVLTraining.model_validate(applied).spec, default_image="trainer:test")

    assert expansion.problems == ()
    assert {stage.partition.pipeline_layers for stage in expansion.stages} == {{1: (2,), 2: (1, 1)}[pipeline]}
