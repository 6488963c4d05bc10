"""Which process grids a model can be cut to."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internvl_trainer.contract import catalog
from internvl_trainer.contract.job import PartitionConfig
from internvl_trainer.contract.layout import head_slots, layout_problems
from internvl_trainer.contract.manifest import ParallelLayout

pytestmark = pytest.mark.unit


def test_a_vision_encoder_of_25_heads_can_be_cut_by_what_its_language_model_can() -> None:
    for size in ("26B", "38B", "78B"):
        model = catalog.get(f"InternVL2_5-{size}")
        assert [layout_problems(model, ParallelLayout(tensor=tensor)) for tensor in (1, 2, 4, 8)] == [()] * 4


def test_heads_that_do_not_divide_are_told_with_the_sizes_that_do() -> None:
    (problem,) = layout_problems(catalog.get("InternVL2_5-1B"), ParallelLayout(tensor=4))

    assert (problem.axis, problem.field, problem.value, problem.divisor) == ("tensor", "language.heads", 14, 4)
    assert problem.allowed == (1, 2)
    assert str(problem) == (
        "the 14 attention heads of the language model (language.heads) cannot be shared evenly by 4 tensor-parallel "
        "ranks; tensor can be 1, 2"
    )


def test_where_ranks_share_tiles_nothing_of_the_vision_encoder_has_to_divide() -> None:
    model = catalog.get("InternVL2_5-26B")
    odd = model.model_copy(update={"vision": model.vision.model_copy(update={"ffn": 12801})})

    (problem,) = layout_problems(odd, ParallelLayout(tensor=2))

    assert (problem.field, problem.value) == ("vision.ffn", 12801)
    assert layout_problems(odd, ParallelLayout(tensor=2), PartitionConfig(vision="tiles")) == ()


def test_25_heads_take_26_28_and_32_slots_at_two_four_and_eight_ranks() -> None:
    assert [head_slots(25, ranks) for ranks in (1, 2, 4, 5, 8)] == [25, 26, 28, 25, 32]


@given(heads=st.integers(1, 64), ranks=st.integers(1, 64))
def test_slots_hold_all_heads_divide_evenly_and_are_no_more_than_needed(heads: int, ranks: int) -> None:
    assert head_slots(heads, ranks) % ranks == 0
    assert 0 <= head_slots(heads, ranks) - heads < ranks


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


@given(
    st.sampled_from(list(catalog.MODELS.values())),
    st.integers(1, 64),
    st.sampled_from([PartitionConfig(vision="tensor"), PartitionConfig(vision="tiles")]),
)
def test_a_tensor_size_is_refused_exactly_where_it_is_not_among_those_allowed(model, tensor, partition) -> None:
    for problem in layout_problems(model, ParallelLayout(tensor=tensor), partition):
        assert problem.divisor == tensor
        assert tensor not in problem.allowed
        for allowed in problem.allowed:
            assert layout_problems(model, ParallelLayout(tensor=allowed), partition) == ()
