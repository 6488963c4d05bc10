"""What the ranks of a grid hold of a model and its optimizer, put together to whole tensors."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from megatron.core.dist_checkpointing import ShardedTensor
from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.mapping import is_main_replica
from megatron.core.dist_checkpointing.state_dict_utils import load_preprocess

from internvl_trainer.engine.megatron import MegatronEngine
from internvl_trainer.engine.protocol import ShardedStateDict


class Piece(NamedTuple):
    """A rank's part of a tensor."""

    key: str
    offset: tuple[int, ...]
    whole: tuple[int, ...]
    values: np.ndarray


class Held(NamedTuple):
    """What one rank would write into a checkpoint, and what its optimizer takes."""

    pieces: list[Piece]
    step: int
    optimizer_bytes: int
    """Of Adam's moments, and of float32 weights beside the model's."""


def held(engine: MegatronEngine) -> Held:
    """What this rank holds. Collective."""
    optimizer = engine.sharded_optimizer_state()
    taken = {}
    for part in engine._optimizer.chained_optimizers:
        masters = [master for group in part.optimizer.param_groups for master in group["params"]]
        moments = [moment for state in part.optimizer.state.values() for moment in state.values() if moment.ndim]
        taken |= {each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in [*masters, *moments]}
    for weight in engine.model.parameters():
        taken.pop(weight.untyped_storage().data_ptr(), None)
    pieces = [*_pieces(engine.sharded_model_state()), *_pieces(optimizer["tensors"])]
    return Held(pieces, optimizer["step"], sum(taken.values()))


def _pieces(state: ShardedStateDict) -> Iterable[Piece]:
    for shard in nested_values(load_preprocess(state)[0]):
        assert isinstance(shard, ShardedTensor)
        if is_main_replica(shard.replica_id):
            values = (
                shard.data.detach().float().numpy().copy().reshape((1,) * shard.prepend_axis_num + shard.data.shape)
            )
            yield Piece(shard.key, tuple(shard.global_offset), tuple(shard.global_shape), values)


def whole(ranks: Iterable[Held]) -> dict[str, np.ndarray]:
    """All tensors by key; every element must be held by exactly one rank."""
    tensors: dict[str, np.ndarray] = {}
    for piece in (piece for rank in ranks for piece in rank.pieces):
        tensor = tensors.setdefault(piece.key, np.full(piece.whole, np.nan, dtype=np.float32))
        at = tuple(slice(begin, begin + size) for begin, size in zip(piece.offset, piece.values.shape, strict=True))
        assert np.isnan(tensor[at]).all(), f"two ranks hold {piece.key} at {piece.offset}"
        tensor[at] = piece.values
    assert not any(np.isnan(tensor).any() for tensor in tensors.values()), "nobody holds some elements"
    return tensors
