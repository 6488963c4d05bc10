"""What a job's words about cutting and recomputing become in megatron.core's configurations."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internvl_trainer.contract.catalog import MODELS
from internvl_trainer.contract.job import PartitionConfig, RecomputeConfig
from internvl_trainer.contract.manifest import ParallelLayout
from internvl_trainer.model.config import model_configs
from internvl_trainer.model.errors import LayoutError

pytestmark = pytest.mark.unit

MODEL = MODELS["InternVL2_5-8B"]
LAYERS = MODEL.language.layers


def layers_and_offsets(pipeline: int, partition: PartitionConfig) -> tuple[list[int], list[int]]:
    """What megatron builds on each stage, and the number of its first layer."""
    stages = model_configs(MODEL, ParallelLayout(pipeline=pipeline), partition=partition).language
    layout = stages.pipeline_model_parallel_layout
    counts = [layout.get_num_layers_to_build(pp_rank=stage) for stage in range(pipeline)]
    return counts, [layout.get_layer_offset(pp_rank=stage) for stage in range(pipeline)]


@given(st.lists(st.integers(0, LAYERS), max_size=7).map(sorted))
def test_each_stage_builds_the_layers_that_it_is_given(cuts: list[int]) -> None:
    starts, ends = [0, *cuts], [*cuts, LAYERS]
    split = tuple(end - start for start, end in zip(starts, ends, strict=True))

    assert layers_and_offsets(len(split), PartitionConfig(pipeline_layers=split)) == (list(split), starts)


@pytest.mark.parametrize(("pipeline", "split"), [(1, [32]), (2, [16, 16]), (3, [10, 11, 11]), (5, [6, 6, 6, 7, 7])])
def test_layers_are_spread_evenly_where_nothing_is_said(pipeline: int, split: list[int]) -> None:
    assert layers_and_offsets(pipeline, PartitionConfig())[0] == split


def test_a_split_that_does_not_add_up_is_refused() -> None:
    with pytest.raises(LayoutError, match=r"InternVL2_5-8B: \[16, 15\] has the sum 31"):
        model_configs(MODEL, ParallelLayout(pipeline=2), partition=PartitionConfig(pipeline_layers=(16, 15)))


def test_only_the_language_model_shares_the_sequence_and_only_where_ranks_can() -> None:
    asked = PartitionConfig(sequence=True)
    two, one = (model_configs(MODEL, ParallelLayout(tensor=tensor), partition=asked) for tensor in (2, 1))

    assert two.language.sequence_parallel
    assert not two.vision.sequence_parallel
    assert not two.projector.sequence_parallel
    assert not one.language.sequence_parallel


@pytest.mark.parametrize("vision", ["none", "layers", "whole"])
@pytest.mark.parametrize("language", ["none", "layers"])
def test_each_side_has_its_own_recompute(vision: str, language: str) -> None:
    what = RecomputeConfig.model_validate({"vision": vision, "language": language})
    configs = model_configs(MODEL, ParallelLayout(), recompute=what)

    assert (configs.vision.recompute_granularity == "full") == (vision != "none")
    assert (configs.language.recompute_granularity == "full") == (language != "none")
    assert configs.from_pixels == (vision == "whole")
