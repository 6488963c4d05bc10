"""The cost of a pack is the count of operations of a training step on it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internvl_trainer.contract.base import Component
from internvl_trainer.contract.catalog import MODELS
from internvl_trainer.contract.flops import PackLoad, forward_flops, model_passes
from internvl_trainer.data.packing import PackCost

pytestmark = pytest.mark.unit

TRAINABLE = st.sampled_from([(Component.PROJECTOR,), (Component.VISION, Component.PROJECTOR), tuple(Component)])


@given(
    st.sampled_from(sorted(MODELS)),
    TRAINABLE,
    st.lists(st.integers(1, 4000), min_size=1, max_size=8),
    st.integers(0, 4),
)
def test_a_pack_costs_the_operations_of_its_training_step(
    name: str, trainable: tuple[Component, ...], text: list[int], tiles: int
) -> None:
    """Visual tokens meet no vocabulary; all others are taken as supervised."""
    model = MODELS[name]
    lengths = [text[0] + tiles * model.tokens_per_tile, *text[1:]]

    cost = PackCost.of_model(model, trainable).of(lengths, tiles)

    load = PackLoad.of_segments(lengths, tiles, head_tokens=sum(text))
    assert cost == forward_flops(model, load).times(model_passes(trainable))


def test_tiles_weigh_more_where_the_vision_encoder_is_trained() -> None:
    frozen, trained = (
        PackCost.of_model(MODELS["InternVL2_5-1B"], components)
        for components in ((Component.PROJECTOR,), (Component.VISION, Component.PROJECTOR))
    )

    assert trained.tile > 2 * frozen.tile
    assert trained.token == frozen.token


def test_one_long_segment_costs_more_than_two_of_half_its_length() -> None:
    cost = PackCost(token=3, square=1, tile=7)

    assert (cost.of([20], 1), cost.of([10, 10], 1)) == (467, 267)
