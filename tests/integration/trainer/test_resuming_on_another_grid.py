"""A checkpoint of one process grid goes on in another: weights, optimizer and all."""

from pathlib import Path

import pytest

from internvl_trainer.contract.catalog import MODELS
from internvl_trainer.contract.job import JobConfig
from internvl_trainer.contract.manifest import ParallelLayout
from internvl_trainer.engine.protocol import StepResult
from tests.integration.trainer import cases
from tests.integration.trainer.grid import on_grid
from tests.integration.trainer.world import job

pytestmark = pytest.mark.integration

TINY = MODELS["tiny-8b-like"]
# 300 rows are padded to 384 at tensor size 1 and to 512 at 2, so that the padding itself has to change on the way.
UNEVEN = TINY.model_copy(update={"language": TINY.language.model_copy(update={"vocab_size": 300})})
WRITER = ParallelLayout(pipeline=2, data=2)
# The writer's first stage has no language layer; other grids of two stages have one each.
PARTITIONS = {WRITER: {"pipeline_layers": [0, 2]}, ParallelLayout(tensor=2, pipeline=2): {"sequence": True}}

type Settings = dict[str, str]
type Written = tuple[Path, Settings, list[StepResult]]

SETTINGS: list[Settings] = [
    {"precision": "fp32", "decay_scope": "all"},
    {"precision": "fp32", "decay_scope": "matrices"},
    {"precision": "bf16", "decay_scope": "matrices"},
]


def stage(store: Path, layout: ParallelLayout, chosen: Settings) -> JobConfig:
    # So much decay that a weight in the wrong group of parameters would show after one step.
    settings = {"global_batch": 2, "steps": 9, "weight_decay": 5.0} | chosen
    cut = {"layout": layout.model_dump(), "partition": PARTITIONS.get(layout, {})}
    return job(store, store, model=UNEVEN.model_dump(), **cut, optimization=settings)


@pytest.fixture(scope="module", params=SETTINGS, ids=lambda chosen: "-".join(chosen.values()))
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Written:
    """A store with a checkpoint after two steps, its settings, and what the writer did next."""
    store = tmp_path_factory.mktemp("store")
    config = stage(store, WRITER, request.param)
    went_on, *_ = on_grid(WRITER, cases.train_and_save, config, store / "scratch", before=2, after=2)
    return store, request.param, went_on


@pytest.mark.parametrize(
    "layout",
    [
        WRITER,
        ParallelLayout(),
        ParallelLayout(tensor=2),
        ParallelLayout(tensor=2, pipeline=2),
        ParallelLayout(tensor=2, data=2),
    ],
    ids=lambda layout: f"tp{layout.tensor}-pp{layout.pipeline}-dp{layout.data}",
)
def test_it_goes_on_as_the_writer_did(layout: ParallelLayout, written: Written, tmp_path: Path) -> None:
    store, chosen, went_on = written
    for resumed in on_grid(layout, cases.resume_and_train, stage(store, layout, chosen), tmp_path, after=2):
        if layout == WRITER:
            assert resumed == went_on  # to the last bit
        relative = {"fp32": 1e-5, "bf16": 1e-2}[chosen["precision"]]
        assert [each.loss for each in resumed] == pytest.approx([each.loss for each in went_on], rel=relative)
