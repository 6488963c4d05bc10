"""How language layers are shared by pipeline stages, and which pipelines are refused."""

from itertools import combinations, pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internvl_trainer.contract import catalog
from internvl_trainer.contract.base import Component
from internvl_trainer.contract.job import PartitionConfig, RecomputeConfig
from internvl_trainer.contract.manifest import ParallelLayout
from internvl_trainer.contract.pipeline import (
    TOLERANCE,
    PipelineCost,
    balance,
    balance_problem,
    job_balance_problem,
    job_layers,
    pipeline_cost,
)
from tests.unit.contract.examples import job

pytestmark = pytest.mark.unit

STAGE_1, STAGE_2 = (Component.PROJECTOR,), tuple(Component)
RECOMPUTE = RecomputeConfig()

costs = st.builds(
    PipelineCost,
    first=st.integers(0, 40),
    layer=st.integers(1, 10),
    layers=st.integers(1, 7),
    last=st.integers(0, 20),
)


def all_splits(layers: int, stages: int) -> list[tuple[int, ...]]:
    """Every way to share layers over stages, stages without any included."""
    bars = combinations(range(layers + stages - 1), stages - 1)
    edges = [(-1, *bar, layers + stages - 1) for bar in bars]
    return [tuple(right - left - 1 for left, right in pairwise(e)) for e in edges]


def cost_of(
    name: str, trainable: tuple[Component, ...] = STAGE_2, tensor: int = 1, vision: str = "tensor"
) -> PipelineCost:
    return pipeline_cost(
        catalog.get(name),
        trainable=trainable,
        recompute=RECOMPUTE,
        pack_tokens=16384,
        pack_tiles=48,
        tensor=tensor,
        partition=PartitionConfig.model_validate({"vision": vision}),
    )


def longest(name: str, trainable: tuple[Component, ...] = STAGE_2) -> int:
    cost = cost_of(name, trainable)
    return next(n for n in range(1, 100) if balance_problem(cost, n + 1, vision_trains=trainable == STAGE_2))


@given(cost=costs, stages=st.integers(1, 4))
def test_no_split_has_a_faster_slowest_stage(cost: PipelineCost, stages: int) -> None:
    best = min(max(cost.of_stages(split)) for split in all_splits(cost.layers, stages))
    split = balance(cost, stages)
    assert sum(split) == cost.layers
    assert max(cost.of_stages(split)) == best


@given(cost=costs, stages=st.integers(1, 4))
def test_among_equally_fast_splits_the_most_even_is_taken_with_the_odd_layers_at_the_end(
    cost: PipelineCost, stages: int
) -> None:
    def unevenness(split: tuple[int, ...]) -> tuple[list[int], tuple[int, ...]]:
        return sorted(cost.of_stages(split), reverse=True), split

    assert balance(cost, stages) == min(all_splits(cost.layers, stages), key=unevenness)


@given(cost=costs, stages=st.integers(1, 12))
def test_a_pipeline_is_refused_exactly_where_an_indivisible_part_exceeds_the_tolerance(
    cost: PipelineCost, stages: int
) -> None:
    limit = TOLERANCE * cost.total / stages
    fits = all(part <= limit for part in (cost.first, cost.layer, cost.last))
    problem = balance_problem(cost, stages, vision_trains=True)
    assert (problem is None) == (fits or stages == 1)
    if problem is not None:
        assert problem.most_stages < stages
        assert balance_problem(cost, problem.most_stages, vision_trains=True) is None


@pytest.mark.parametrize(
    ("name", "stages", "layers"),
    [
        ("InternVL2_5-26B", 2, (2, 46)),
        ("InternVL2_5-38B", 2, (15, 49)),
        ("InternVL2_5-78B", 4, (5, 25, 25, 25)),
        ("InternVL2_5-78B", 5, (0, 20, 20, 20, 20)),
    ],
)
def test_the_largest_models_get_few_language_layers_beside_the_vision_encoder(
    name: str, stages: int, layers: tuple[int, ...]
) -> None:
    assert balance(cost_of(name), stages) == layers


def test_the_longest_pipelines_of_stage_2_are_the_lossless_ones_and_what_the_tolerance_adds() -> None:
    lossless = {name: cost_of(name).total // cost_of(name).first for name in ("InternVL2_5-26B", "InternVL2_5-38B")}
    assert lossless == {"InternVL2_5-26B": 2, "InternVL2_5-38B": 2}
    assert cost_of("InternVL2_5-78B").total // cost_of("InternVL2_5-78B").first == 5
    assert [longest(f"InternVL2_5-{size}") for size in ("1B", "26B", "38B", "78B")] == [1, 2, 3, 6]


def test_a_frozen_vision_encoder_costs_a_third_and_lets_the_pipeline_be_longer() -> None:
    frozen = cost_of("InternVL2_5-78B", STAGE_1)
    assert frozen.in_layers(frozen.first) == pytest.approx(6.5, abs=0.2)
    assert longest("InternVL2_5-78B", STAGE_1) == 16


def test_a_refusal_says_what_costs_how_much_and_what_to_do() -> None:
    problem = balance_problem(cost_of("InternVL2_5-26B"), 4, vision_trains=True)
    assert str(problem) == (
        "4 pipeline stages cannot balance: the vision side of the first stage costs as much as 43.6 language layers "
        "and cannot be divided, but a stage's mean is 23.0, and a part may cost at most 1.25 times that; lower "
        "pipeline to 2, or set pipelineLayers (in a job file: partition.pipeline_layers) to accept an uneven one, or "
        "lower packTiles (in a job file: data.pack_tiles), or freeze the vision encoder in this stage"
    )


def test_padding_25_heads_to_32_moves_a_layer_away_from_the_first_stage() -> None:
    first = {mode: balance(cost_of("InternVL2_5-78B", tensor=8, vision=mode), 2)[0] for mode in ("tensor", "tiles")}
    assert first["tensor"] == first["tiles"] - 1


@pytest.mark.parametrize("name", ["tiny-8b-like", "tiny-1b-like"])
@pytest.mark.parametrize("trainable", [(Component.PROJECTOR,), (Component.VISION, Component.PROJECTOR), STAGE_2])
def test_the_example_of_a_tiny_model_can_be_cut_in_two(name: str, trainable: tuple[Component, ...]) -> None:
    cost = pipeline_cost(catalog.get(name), trainable=trainable, recompute=RECOMPUTE, pack_tokens=256, pack_tiles=4)
    assert balance_problem(cost, 2, vision_trains=Component.VISION in trainable) is None


def test_layers_that_the_job_itself_gives_are_not_refused() -> None:
    asked: dict[str, Any] = {"model": catalog.get("InternVL2_5-1B"), "layout": ParallelLayout(pipeline=2)}
    assert job_balance_problem(job(**asked)) is not None
    assert job_layers(job(**asked)) == (0, 24)
    told = job(**asked, partition=PartitionConfig(pipeline_layers=(1, 23)))
    assert job_balance_problem(told) is None
    assert job_layers(told) == (1, 23)
