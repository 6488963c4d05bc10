"""Random weights that do not depend on the process grid.

Each tensor of the model is drawn whole, from a generator seeded by the run's seed and the tensor's checkpoint key, and
each rank keeps its slice. A model is thus the same function of its seed at any tensor and pipeline size.
"""

from collections.abc import Callable, Collection, Iterator
from functools import partial

import torch
from megatron.core.dist_checkpointing import ShardedTensor
from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.mapping import apply_factories
from megatron.core.transformer.module import MegatronModule

from internvl_trainer.contract.base import Component
from internvl_trainer.contract.tensors import WholeTensor, prefix_of
from internvl_trainer.model.internvl import InternVLModel
from internvl_trainer.model.random_start import draw

STACKED = ".layers."
"""In the key of a tensor that is one layer of a stack; checkpoints hold a stack as one tensor."""


@torch.no_grad()
def fill(
    model: MegatronModule, source: Callable[[WholeTensor], torch.Tensor], prefixes: tuple[str, ...] = ("",)
) -> None:
    """Set this rank's weights, of keys with one of `prefixes`, to their slices of what `source` gives for the whole."""
    for shard in _shards(model):
        if not shard.key.startswith(prefixes):
            continue
        stacked = int(STACKED in shard.key)
        layer = shard.global_offset[0] if stacked else None
        whole = source(WholeTensor(shard.key, layer, tuple(shard.global_shape[stacked:])))
        lengths = shard.local_shape[stacked - shard.prepend_axis_num :]
        for axis, (offset, length) in enumerate(zip(shard.global_offset[stacked:], lengths, strict=True)):
            whole = whole.narrow(axis, offset, length)
        shard.data.copy_(whole)


def initialise(model: InternVLModel, seed: int, components: Collection[Component] = tuple(Component)) -> None:
    """Draw weights in place: matrices and embeddings normal, biases zero, norms one, layer scale as configured.

    Whole tensors are drawn on every rank, which takes minutes for the largest models: leave out the components that
    will be loaded anyway.
    """
    prefixes = tuple(map(prefix_of, components))
    fill(model, partial(draw, model.geometry, seed), prefixes)


def _shards(model: MegatronModule) -> Iterator[ShardedTensor]:
    state = model.sharded_state_dict()
    apply_factories(state)
    return (value for value in nested_values(state) if isinstance(value, ShardedTensor))
