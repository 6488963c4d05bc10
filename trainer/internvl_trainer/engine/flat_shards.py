"""A flat range of a parameter's elements as sharded tensors: how a replica saves the part of a tensor that it owns.

megatron.core shards tensors by rectangular parts, and no longer by ranges of flattened ones.
"""

from collections.abc import Iterator
from dataclasses import replace

import torch
from megatron.core.dist_checkpointing import ShardedTensor
from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.mapping import ShardedTensorFactory

from internvl_trainer.engine.boxes import boxes_in_range


def shards_of_range(
    template: ShardedTensor | ShardedTensorFactory, values: torch.Tensor, first: int, *, prefix: str, owned_alone: bool
) -> Iterator[ShardedTensor]:
    """Sharded tensors over the memory of `values`, which hold a range of elements in the place of a parameter's own.

    Args:
        template: the parameter in the model's sharded state: what it is of which global tensors.
        values: contiguous; element i belongs to the parameter's element `first` + i, in the order of its memory.
        first: where the range begins in the parameter.
        prefix: put before the template's keys.
        owned_alone: whether one data-parallel replica has this range; else all of them do, as they have the parameter.

    Raises:
        ValueError: the template is a factory that does not give views of what it is given.
    """
    values = values.view(-1)
    for piece in _pieces(template):
        strides, begin = piece.data.stride(), piece.data.storage_offset() - first
        stacked = piece.prepend_axis_num
        for box in boxes_in_range(piece.local_shape, strides, -begin, len(values) - begin):
            inside = begin + sum(index * stride for index, stride in zip(box.offset, strides, strict=True))
            shape = (1,) * stacked + box.shape
            own_offset = zip(piece.global_offset[stacked:], box.offset, strict=True)
            yield replace(
                piece,
                key=prefix + piece.key,
                data=values.as_strided(shape, (1,) * stacked + strides, values.storage_offset() + inside),
                dtype=values.dtype,
                local_shape=shape,
                global_offset=(*piece.global_offset[:stacked], *map(sum, own_offset)),
                axis_fragmentations=None,  # boxes are no regular grid
                prepend_axis_num=0,
                replica_id=(*piece.replica_id[:-1], 0) if owned_alone else piece.replica_id,
            )


def _pieces(template: ShardedTensor | ShardedTensorFactory) -> list[ShardedTensor]:
    """What of which global tensors a parameter is, as views of a canvas of its shape that takes no memory."""
    canvas = torch.empty(template.data.shape, dtype=template.data.dtype, device="meta")
    if isinstance(template, ShardedTensor):
        return [replace(template, data=canvas)]
    pieces = list(nested_values({"of": template.build_fn(template.key, canvas, template.replica_id, None)}))
    if any(piece.data is not canvas and piece.data._base is not canvas for piece in pieces):
        raise ValueError(
            f"the factory of {template.key} copies its data; for optimizer state that is shared out it must give "
            "views: use narrow, chunk or view in place of cat, indexing by tensors or contiguous"
        )
    return pieces
