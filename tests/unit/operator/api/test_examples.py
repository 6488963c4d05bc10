"""Every example is a valid run, and short."""

from pathlib import Path

import pytest
import yaml

from internvl_operator.api.training import InternVLTraining
from internvl_operator.domain.stages import expand
from internvl_operator.domain.state import RunSource, SourceReady
from internvl_operator.domain.vision import judge_source
from internvl_trainer.contract import catalog
from internvl_trainer.contract.job import PartitionConfig
from internvl_trainer.contract.layout import layout_problems
from internvl_trainer.contract.manifest import ParallelLayout
from internvl_trainer.contract.memory import estimate_memory
from tests.property.world import DIGEST

pytestmark = pytest.mark.unit

EXAMPLES = sorted((Path(__file__).parents[4] / "examples").glob("*.yaml"))
RUNS = [InternVLTraining.model_validate(yaml.safe_load(path.read_text())) for path in EXAMPLES]
BY_NAME = {run.metadata.name: run for run in RUNS}


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.metadata.name)
def test_it_can_be_laid_out(run: InternVLTraining) -> None:
    expansion = expand(run.spec, default_image="trainer:platform")

    assert expansion.problems == ()
    assert [stage.name for stage in expansion.stages] == [stage.name for stage in run.spec.stages]


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.metadata.name)
def test_the_trainer_can_cut_its_model_to_every_stages_grid(run: InternVLTraining) -> None:
    for stage in run.spec.stages:
        sizes = stage.parallelism or run.spec.parallelism
        grid = ParallelLayout(tensor=sizes.tensor, pipeline=sizes.pipeline)
        partition = PartitionConfig(vision=sizes.vision, pipeline_layers=sizes.pipeline_layers)
        assert layout_problems(catalog.get(run.spec.model), grid, partition) == ()


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.metadata.name)
def test_every_stage_fits_on_devices_of_80_gb_with_room_to_spare(run: InternVLTraining) -> None:
    for stage in expand(run.spec, default_image="trainer:platform").stages:
        assert max(each.parts.total for each in estimate_memory(stage)) < 0.85 * 80e9


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_it_is_short_and_carries_its_files_name(path: Path) -> None:
    text = path.read_text()

    assert yaml.safe_load(text)["metadata"]["name"] == path.stem
    assert len([line for line in text.splitlines() if line and not line.startswith("#")]) <= 25


def test_there_is_one_for_each_model() -> None:
    assert {run.spec.model for run in RUNS} == set(catalog.MODELS)


@pytest.mark.parametrize("run", [run for run in RUNS if run.spec.vision], ids=lambda run: run.metadata.name)
def test_the_vision_encoder_that_it_waits_for_is_published_by_another_example(run: InternVLTraining) -> None:
    assert run.spec.vision
    reference = run.spec.vision.from_.training_ref
    assert reference
    donor = BY_NAME[reference.name]
    offer = {"component": "vision", "uri": "s3://runs/vision.json", "sha256": DIGEST}
    published = donor.model_validate(
        donor.to_dict() | {"status": {"stages": [{"name": reference.stage, "published": [offer]}]}}
    )

    answer = judge_source(
        RunSource(reference.name, reference.stage), run=run.identity, model=run.spec.model, other=published
    )

    assert isinstance(answer, SourceReady)
