"""Which process grids a model can be cut to."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internvl_trainer.contract import catalog
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


def test_layers_that_do_not_divide_are_told_with_the_sizes_that_do() -> None:
    (problem,) = layout_problems(catalog.get("InternVL2_5-8B"), ParallelLayout(pipeline=3))

    assert (problem.axis, problem.field, problem.value, problem.divisor) == ("pipeline", "language.layers", 32, 3)
    assert problem.allowed == (1, 2, 4, 8, 16, 32)


def test_few_key_value_heads_are_repeated_and_an_uneven_share_is_refused() -> None:
    model = catalog.get("InternVL2_5-4B")
    assert layout_problems(model, ParallelLayout(tensor=8)) == (), "each of 2 key-value heads on 4 ranks"

    uneven = model.model_copy(update={"language": model.language.model_copy(update={"kv_heads": 3})})
    (problem,) = layout_problems(uneven, ParallelLayout(tensor=2))
    assert (problem.field, problem.value, problem.divisor) == ("language.kv_heads", 3, 2)


@given(st.sampled_from(list(catalog.MODELS.values())), st.integers(1, 64), st.integers(1, 96))
def test_a_grid_is_refused_exactly_where_its_sizes_are_not_among_those_allowed(model, tensor, pipeline) -> None:
    problems = layout_problems(model, ParallelLayout(tensor=tensor, pipeline=pipeline))

    for problem in problems:
        size = {"tensor": tensor, "pipeline": pipeline}[problem.axis]
        assert size == problem.divisor
        assert size not in problem.allowed
        for allowed in problem.allowed:
            assert layout_problems(model, ParallelLayout(**{problem.axis: allowed})) == ()
