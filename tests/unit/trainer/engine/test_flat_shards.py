"""Replicas that own ranges of a parameter's elements save and load, together, what one owner of it all would."""

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from megatron.core.dist_checkpointing import ShardedTensor
from megatron.core.dist_checkpointing.mapping import ShardedTensorFactory
from megatron.core.transformer.mlp import apply_swiglu_sharded_factory

from internvl_trainer.engine.flat_shards import shards_of_range

pytestmark = pytest.mark.unit

type Template = ShardedTensor | ShardedTensorFactory

PARAMETER_FC = torch.arange(60.0).view(10, 6)
LAYER = (0, 1, 3)  # the second of three layers, which are stacked along an axis of their own
REPLICA = (0, 0, 1)


def plain() -> ShardedTensor:
    """Rows 10 to 19 of 40."""
    return ShardedTensor.from_rank_offsets("w", PARAMETER_FC, LAYER, (1, 1, 4), prepend_axis_num=1, replica_id=REPLICA)


def gated() -> ShardedTensorFactory:
    """Two halves of a gated MLP, far from each other in the whole, by megatron's own factory."""
    return apply_swiglu_sharded_factory(plain(), (LAYER,))


def without_last_columns() -> ShardedTensorFactory:
    """Four of the six columns: the others are padding."""

    def build(key: str, data: torch.Tensor, replica_id: tuple[int, ...], _: slice | None) -> ShardedTensor:
        return ShardedTensor.from_rank_offsets(key, data.narrow(1, 0, 4), (0, 1, 2), replica_id=replica_id)

    return ShardedTensorFactory("w", PARAMETER_FC, build, lambda part: part, REPLICA)


def whole_of(template: Template, shards: list[ShardedTensor]) -> torch.Tensor:
    """The global tensor with what some shards say of it; what none of them says is not a number."""
    tensor = torch.full(shards[0].global_shape, float("nan"))
    for shard in shards:
        shape = (1,) * shard.prepend_axis_num + tuple(shard.local_shape)
        at = tuple(slice(begin, begin + size) for begin, size in zip(shard.global_offset, shape, strict=True))
        assert tensor[at].isnan().all(), "two shards hold the same element"
        tensor[at] = shard.data
    return tensor


def at_once(template: Template) -> list[ShardedTensor]:
    """What megatron makes of the template for an owner of the whole parameter."""
    if isinstance(template, ShardedTensor):
        return [template]
    built = template.build()
    return built if isinstance(built, list) else [built]


@pytest.mark.parametrize("make", [plain, gated, without_last_columns])
@given(cuts=st.lists(st.integers(0, 60), max_size=5))
def test_together_they_hold_what_megatron_would_save_and_load_it_in_place(
    make: Callable[[], Template], cuts: list[int]
) -> None:
    template = make()
    ranges = list(pairwise([0, *sorted(cuts), 60]))
    saved = [PARAMETER_FC.flatten()[first:end].clone() for first, end in ranges]
    loaded = [torch.full_like(values, -1) for values in saved]
    ours, targets = (
        [
            shard
            for (first, _), values in zip(ranges, state, strict=True)
            for shard in shards_of_range(template, values, first, prefix="state.", owned_alone=True)
        ]
        for state in (saved, loaded)
    )
    expected = whole_of(template, at_once(template))
    assert torch.equal(whole_of(template, ours).nan_to_num(-7), expected.nan_to_num(-7))
    assert {(shard.key, shard.replica_id) for shard in ours} == {("state.w", (0, 0, 0))}
    for source, target in zip(ours, targets, strict=True):
        target.data.copy_(source.data)
    padding = torch.ones_like(PARAMETER_FC, dtype=torch.bool)
    padding[:, : at_once(template)[0].local_shape[-1]] = False
    assert torch.equal(torch.cat(loaded), PARAMETER_FC.masked_fill(padding, -1).flatten())


def test_what_all_replicas_own_keeps_the_parameters_own_replica_number() -> None:
    (shard,) = shards_of_range(plain(), PARAMETER_FC.clone(), 0, prefix="", owned_alone=False)
    assert shard.replica_id == REPLICA


def test_a_factory_that_copies_is_refused() -> None:
    def build(key: str, data: torch.Tensor, replica_id: tuple[int, ...], _: slice | None) -> ShardedTensor:
        return ShardedTensor.from_rank_offsets(key, data[[1, 0]], replica_id=replica_id)

    template = ShardedTensorFactory("swapped", PARAMETER_FC, build, lambda part: part, REPLICA)
    with pytest.raises(ValueError, match="factory of swapped copies its data"):
        list(shards_of_range(template, PARAMETER_FC.clone(), 0, prefix="", owned_alone=True))
