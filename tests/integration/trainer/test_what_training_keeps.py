"""What training keeps in memory: activations as a job asks for, gradients and optimizer state of what it trains."""

from itertools import combinations
from pathlib import Path

import pytest

from internvl_trainer.contract.base import Component
from internvl_trainer.contract.job import JobConfig
from internvl_trainer.contract.manifest import ParallelLayout
from tests.integration.trainer import keeping_cases
from tests.integration.trainer.grid import on_grid
from tests.integration.trainer.keeping_cases import Kept
from tests.integration.trainer.world import job

pytestmark = pytest.mark.integration

SINGLE = ParallelLayout()
FREEZES = [parts for size in (1, 2, 3) for parts in combinations(Component, size)]
RECOMPUTE = [
    {"vision": vision, "language": language}
    for vision in ("none", "layers", "whole")
    for language in ("none", "layers")
]
SMALL = 64 * 2**10
"""Bytes that may come and go: step counters, rotary frequencies and the like."""


def recomputing(folder: Path, layout: ParallelLayout, **parts: object) -> list[JobConfig]:
    """One job per way to recompute, with drop path."""
    settings = {"global_batch": 4, "drop_path": 0.3}
    cut = {"layout": layout.model_dump(), "optimization": settings}
    return [job(folder, folder, recompute=what, **cut, **parts) for what in RECOMPUTE]


@pytest.mark.parametrize(
    ("layout", "partition"),
    [(SINGLE, {}), (ParallelLayout(tensor=2, pipeline=2), {"sequence": True, "pipeline_layers": [0, 2]})],
    ids=["single", "tp2-pp2-sequence"],
)
def test_recompute_changes_no_bit_not_even_what_drop_path_drops(
    layout: ParallelLayout, partition: dict[str, object], tmp_path: Path
) -> None:
    jobs = recomputing(tmp_path, layout, partition=partition)
    for first, *others in on_grid(layout, keeping_cases.train_to_the_bit, jobs, 2):
        assert others == [first] * (len(RECOMPUTE) - 1)


def kept(folder: Path, **parts: object) -> dict[tuple[str, str], Kept]:
    """What each way to recompute keeps, by its words for vision and language."""
    ((*each,),) = on_grid(SINGLE, keeping_cases.keep, recomputing(folder, SINGLE, **parts))
    return {(what["vision"], what["language"]): one for what, one in zip(RECOMPUTE, each, strict=True)}


def test_recompute_keeps_inputs_of_layers_or_nothing_but_tiles(tmp_path: Path) -> None:
    by_way = kept(tmp_path)
    nothing, layers, whole = (by_way[vision, "none"].visual for vision in ("none", "layers", "whole"))
    assert layers < nothing / 3
    assert whole == by_way["whole", "none"].tiles

    for vision in ("none", "layers", "whole"):
        language = {what: by_way[vision, what].all - by_way[vision, what].visual for what in ("none", "layers")}
        # Both keep what the head keeps.
        assert language["layers"] < language["none"] / 2


def test_a_frozen_vision_encoder_keeps_nothing_whatever_is_recomputed(tmp_path: Path) -> None:
    frozen = kept(tmp_path, trainable=("projector", "language"))
    trained = kept(tmp_path, trainable=("vision", "projector", "language"))
    assert len({one.visual for one in frozen.values()}) == 1
    # The projector's own inputs and activations are left.
    assert frozen["none", "none"].visual < trained["none", "none"].visual / 10

    without_projector = kept(tmp_path, trainable=("language",))
    assert {one.visual for one in without_projector.values()} == {0}


@pytest.mark.parametrize("layout", [SINGLE, ParallelLayout(tensor=2, pipeline=2)], ids=["single", "tp2-pp2"])
def test_exactly_what_is_trained_has_gradients_and_optimizer_state(layout: ParallelLayout, tmp_path: Path) -> None:
    jobs = [job(tmp_path, tmp_path, layout=layout.model_dump(), trainable=parts) for parts in FREEZES]
    ranks = on_grid(layout, keeping_cases.hold, jobs)
    for parts, *each_rank in zip(FREEZES, *ranks, strict=True):
        assert set[Component]().union(*(held.with_gradient for held in each_rank)) == set(parts)
        for held in each_rank:
            gradient_and_two_moments = 3 * 4 * held.trainable
            assert held.beyond_weights == pytest.approx(gradient_and_two_moments, abs=SMALL), parts
