"""Which process grids a model can be cut to."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internvl_trainer.contract import catalog
from internvl_trainer.contract.job import PartitionConfig
from internvl_trainer.contract.layout import layout_problems
from internvl_trainer.contract.manifest import ParallelLayout

pytestmark = pytest.mark.unit


def test_a_vision_encoder_of_25_heads_cannot_be_cut_by_eight() -> None:
    (problem,) = layout_problems(catalog.get("InternVL2_5-26B"), ParallelLayout(tensor=8, pipeline=2))

    assert (problem.axis, problem.field, problem.value, problem.divisor) == ("tensor", "vision.heads", 25, 8)
    assert problem.allowed == (1,)
    assert str(problem) == (
        "the 25 attention heads of the vision encoder (vision.heads) cannot be shared evenly by 8 tensor-parallel "
        "ranks; tensor can be 1"
    )


def test_stages_need_not_be_equal_and_the_first_may_hold_the_vision_encoder_alone() -> None:
    model = catalog.get("InternVL2_5-8B")
    assert layout_problems(model, ParallelLayout(pipeline=3)) == ()

    only_vision = PartitionConfig(pipeline_layers=(0, 16, 16))
    assert layout_problems(model, ParallelLayout(pipeline=3), only_vision) == ()


def test_more_stages_than_there_is_to_fill_them_with_are_refused() -> None:
    model = catalog.get("tiny-8b-like")
    assert layout_problems(model, ParallelLayout(pipeline=3)) == ()

    (problem,) = layout_problems(model, ParallelLayout(pipeline=4))
    assert problem.axis == "pipeline"
    assert str(problem) == (
        "4 pipeline stages are more than the vision encoder and the 2 layers of the language model (language.layers) "
        "can fill; pipeline can be 1 to 3"
    )


@pytest.mark.parametrize(
    ("pipeline_layers", "words"),
    [
        ((16, 16), "[16, 16] has 2 numbers for 3 pipeline stages"),
        ((16, 8, 4), "[16, 8, 4] has the sum 28, but the language model has 32 layers (language.layers)"),
    ],
)
def test_a_split_that_does_not_add_up_is_told_with_its_numbers(pipeline_layers: tuple[int, ...], words: str) -> None:
    partition = PartitionConfig(pipeline_layers=pipeline_layers)
    (problem,) = layout_problems(catalog.get("InternVL2_5-8B"), ParallelLayout(pipeline=3), partition)

    assert problem.axis == "pipeline_layers"
    assert words in str(problem)


@given(st.lists(st.integers(0, 33), min_size=1, max_size=6), st.integers(1, 6))
def test_a_split_is_taken_exactly_where_it_gives_each_layer_to_one_stage(counts: list[int], stages: int) -> None:
    partition = PartitionConfig(pipeline_layers=tuple(counts))
    problems = layout_problems(catalog.get("InternVL2_5-8B"), ParallelLayout(pipeline=stages), partition)

    assert (not problems) == (len(counts) == stages and sum(counts) == 32)


def test_few_key_value_heads_are_repeated_and_an_uneven_share_is_refused() -> None:
    model = catalog.get("InternVL2_5-4B")
    assert layout_problems(model, ParallelLayout(tensor=8)) == (), "each of 2 key-value heads on 4 ranks"

    uneven = model.model_copy(update={"language": model.language.model_copy(update={"kv_heads": 3})})
    (problem,) = layout_problems(uneven, ParallelLayout(tensor=2))
    assert (problem.field, problem.value, problem.divisor) == ("language.kv_heads", 3, 2)


@given(st.sampled_from(list(catalog.MODELS.values())), st.integers(1, 64))
def test_a_tensor_size_is_refused_exactly_where_it_is_not_among_those_allowed(model, tensor) -> None:
    for problem in layout_problems(model, ParallelLayout(tensor=tensor)):
        assert problem.divisor == tensor
        assert tensor not in problem.allowed
        for allowed in problem.allowed:
            assert layout_problems(model, ParallelLayout(tensor=allowed)) == ()
