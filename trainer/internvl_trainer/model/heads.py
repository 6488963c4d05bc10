"""Self-attention whose heads the tensor-parallel ranks need not share evenly.

InternViT-6B has 25 heads. Inside the model they are filled up with heads of zeros to a multiple of the ranks; the last
ranks then own fewer true heads than slots, some perhaps none. A head of zeros stays one by itself: its queries, keys
and values are zero, so is what attention makes of them, and the zero columns of the output projection let no gradient
back. It thus adds nothing to output, qk norm, gradient or gradient norm, and AdamW finds nothing to do.
Checkpoints hold the true heads only, in the same global tensors at every tensor-parallel size.
"""

from dataclasses import replace
from typing import Any

import torch
from megatron.core.dist_checkpointing import ShardedTensor
from megatron.core.dist_checkpointing.mapping import ReplicaId, ShardedTensorFactory
from megatron.core.transformer.attention import SelfAttention
from megatron.core.transformer.transformer_config import TransformerConfig

HEAD_AXIS = {
    "linear_qkv.weight": 0,
    "linear_qkv.bias": 0,
    "linear_proj.weight": 1,
    "q_layernorm.weight": 0,
    "k_layernorm.weight": 0,
}
"""Parameters of self-attention that have a part per head, and the axis along which the parts lie."""


class PaddedSelfAttention(SelfAttention):
    """Self-attention over `config.num_attention_heads` slots, of which the first `heads` are true heads.

    Each head has its own key and value. Slots beyond the true heads hold zeros.
    """

    def __init__(self, config: TransformerConfig, *arguments: Any, heads: int, **place: Any) -> None:
        super().__init__(config, *arguments, **place)
        self.heads = heads
        mine = self.num_attention_heads_per_partition
        self.true_heads = min(max(heads - mine * self.tp_group.rank(), 0), mine)
        with torch.no_grad():
            for name, axis in HEAD_AXIS.items():
                parameter = self._parameter(name)
                if parameter is not None:
                    true = parameter.size(axis) // mine * self.true_heads
                    parameter.narrow(axis, true, parameter.size(axis) - true).zero_()

    def sharded_state_dict(
        self, prefix: str = "", sharded_offsets: tuple[Any, ...] = (), metadata: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """The parameters, those with a part per head without their padding."""
        state: dict[str, Any] = super().sharded_state_dict(prefix, sharded_offsets, metadata)
        if self.heads == self.config.num_attention_heads:
            return state
        for name, axis in HEAD_AXIS.items():
            key = prefix + name
            if key in state:
                per_head = state[key].local_shape[axis] // self.num_attention_heads_per_partition
                state[key] = _without_padding(
                    state[key], axis, true=self.true_heads * per_head, whole=self.heads * per_head
                )
        return state

    def _parameter(self, name: str) -> torch.nn.Parameter | None:
        module, kind = name.split(".")
        return getattr(getattr(self, module), kind, None)


def _without_padding(shard: ShardedTensor, axis: int, *, true: int, whole: int) -> ShardedTensorFactory:
    """A padded shard as a factory of a view of its true part; the parameter's state in AdamW goes through it as well.

    Args:
        shard: this rank's slice of a regular grid along `axis`, padding and all.
        true: how much of it, along `axis`, is no padding; possibly nothing.
        whole: the tensor's size along `axis` over all ranks, padding excluded.
    """
    padded, layers = shard.local_shape[axis], shard.prepend_axis_num
    template = shard.without_data()

    def build(key: str, data: torch.Tensor, replica_id: ReplicaId, flattened_range: slice | None) -> ShardedTensor:
        assert flattened_range is None  # only older optimizers flatten
        # megatron stores irregular grids only where the data itself has all axes, that of the layers among them.
        part = data.narrow(axis, 0, true)[(None,) * layers]
        offset = min(template.global_offset[layers + axis], whole)
        return replace(
            template,
            key=key,
            data=part,
            dtype=part.dtype,
            local_shape=tuple(part.shape),
            global_shape=_with(template.global_shape, layers + axis, whole),
            global_offset=_with(template.global_offset, layers + axis, offset),
            prepend_axis_num=0,
            axis_fragmentations=None,  # no regular grid: the last ranks have less
            # A rank that has nothing must not write its nothing.
            replica_id=replica_id if true else (1, 0, 0),
        )

    @torch.no_grad()
    def merge(part: torch.Tensor) -> torch.Tensor:
        beyond = (0, 0) * (part.ndim - layers - 1 - axis) + (0, padded - true)
        return torch.nn.functional.pad(part.flatten(0, layers), beyond)

    return ShardedTensorFactory(shard.key, shard.data, build, merge, shard.replica_id)


def _with(shape: tuple[int, ...], axis: int, size: int) -> tuple[int, ...]:
    return (*shape[:axis], size, *shape[axis + 1 :])
