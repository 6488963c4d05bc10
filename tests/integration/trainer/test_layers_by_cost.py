"""Pipeline stages get the language layers that their cost leaves room for; what cannot balance does not start."""

from pathlib import Path
from typing import Any

import pytest

from internvl_trainer.contract.catalog import MODELS, ModelGeometry
from internvl_trainer.contract.job import JobConfig
from internvl_trainer.contract.manifest import ParallelLayout
from tests.integration.trainer import memory_cases
from tests.integration.trainer.grid import on_grid
from tests.integration.trainer.world import job

pytestmark = pytest.mark.integration

TINY = MODELS["tiny-8b-like"]
FOUR_LAYERS = TINY.model_copy(update={"language": TINY.language.model_copy(update={"layers": 4})})
PIPELINE = ParallelLayout(pipeline=2)


def asked(folder: Path, model: ModelGeometry, *, tiles: int, **parts: Any) -> JobConfig:
    """A job of two pipeline stages; the more tiles in a pack, the more its first stage has to do without layers."""
    data = job(folder, folder).data.model_copy(update={"pack_tokens": 1024, "pack_tiles": tiles})
    whole = {"model": model.model_dump(), "layout": PIPELINE.model_dump(), "data": data.model_dump()}
    return job(folder, folder, **whole, **parts)


def test_the_vision_encoders_stage_gets_fewer_language_layers(tmp_path: Path) -> None:
    assert on_grid(PIPELINE, memory_cases.language_layers, asked(tmp_path, FOUR_LAYERS, tiles=1)) == [2, 2]
    assert on_grid(PIPELINE, memory_cases.language_layers, asked(tmp_path, FOUR_LAYERS, tiles=32)) == [1, 3]


def test_a_pipeline_that_cannot_balance_ends_on_every_rank_before_anything_is_built(tmp_path: Path) -> None:
    stage_1_5 = asked(tmp_path, TINY, tiles=48, trainable=("vision", "projector"))
    for message in on_grid(PIPELINE, memory_cases.refusal, stage_1_5):
        assert message is not None
        assert "2 pipeline stages cannot balance: the vision side of the first stage costs as much as" in message


def test_layers_that_are_set_are_taken_as_they_are(tmp_path: Path) -> None:
    told = asked(tmp_path, TINY, tiles=48, trainable=("vision", "projector"), partition={"pipeline_layers": (1, 1)})
    assert on_grid(PIPELINE, memory_cases.language_layers, told) == [1, 1]
