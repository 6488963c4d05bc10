"""The torch_dist folder of a checkpoint, by megatron.core.dist_checkpointing: the only file here that knows megatron.

Whole tensors are written and read without it, and without processes, by torch_dist_writer.py and torch_dist_reader.py.

What lies where, as nodes share no file system: each rank has its own `<component>__<rank>_<n>.distcp` in its node's
folder. Rank 0 alone writes `.metadata` (which tensor lies in which file at which offset), `metadata.json` and the
non-tensor state. A loading node needs these, and of the other files the parts with the tensors that it asks for.

megatron's own writer is not used: it writes files from the training process, and makes each of them anew.
"""

import io
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing import ShardedObject, ShardedTensor
from megatron.core.dist_checkpointing.core import CheckpointingException
from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.mapping import is_main_replica
from megatron.core.dist_checkpointing.state_dict_utils import load_preprocess, save_preprocess
from megatron.core.dist_checkpointing.validation import StrictHandling
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata

from internvl_trainer.checkpoint.components import OPTIMIZER, component_of
from internvl_trainer.checkpoint.errors import MissingTensorsError, ShardError
from internvl_trainer.checkpoint.ranges import Range
from internvl_trainer.checkpoint.staging import Piece
from internvl_trainer.checkpoint.torch_dist_writer import COMMON_STATE
from internvl_trainer.contract.base import Component
from internvl_trainer.contract.boxes import Box

ShardedStateDict = dict[str, Any]
"""Nested dicts with megatron.core's ShardedTensor and ShardedObject as leaves, and plain values."""

INDEX_FILES = (".metadata", "metadata.json")
"""What must be read before anything else can be."""

_COMMON_STATE = "common_state"


class LoadableModel(Protocol):
    """A model that can be loaded. Keys begin with vision_model., projector. or language_model."""

    def sharded_model_state(self) -> ShardedStateDict: ...
    def load_model_state(self, state: ShardedStateDict) -> None: ...


class Checkpointable(LoadableModel, Protocol):
    """What a whole checkpoint needs of the engine."""

    def sharded_optimizer_state(self) -> ShardedStateDict: ...
    def load_optimizer_state(self, state: ShardedStateDict) -> None: ...


class Saveable(NamedTuple):
    """What this process has to save: pieces with their tensors, and what is no tensor, pickled, by its key."""

    pieces: tuple[Piece, ...]
    tensors: tuple[torch.Tensor, ...]
    objects: dict[str, bytes]


def saveable(engine: Checkpointable, *, rank: int, validate: bool) -> Saveable:
    """Model and optimizer as pieces: each element of each tensor belongs to one process. Collective.

    Args:
        engine: between two steps.
        rank: this process's.
        validate: whether to find out if the pieces of all ranks together are the whole tensors, which costs a round
            of messages. On rank 0 alone a fault raises, which is a bug of the model: the launcher ends its peers.

    Raises:
        ShardError: they are not.
    """
    state = {**engine.sharded_model_state(), OPTIMIZER: engine.sharded_optimizer_state()}
    try:
        sharded, common = save_preprocess(state, validate)
    except CheckpointingException as error:
        raise ShardError(f"the parts that ranks save do not make whole tensors: {error}") from error
    leaves = [leaf for leaf in nested_values(sharded) if is_main_replica(leaf.replica_id)]
    tensors = [leaf for leaf in leaves if isinstance(leaf, ShardedTensor)]
    objects = {leaf.unique_key: _pickled(leaf.data) for leaf in leaves if isinstance(leaf, ShardedObject)}
    if rank == 0:
        objects[COMMON_STATE] = _pickled(common)
    return Saveable(tuple(map(_piece, tensors)), tuple(leaf.data for leaf in tensors), objects)


def _piece(leaf: ShardedTensor) -> Piece:
    return Piece(
        key=leaf.key,
        component=component_of(leaf.key),
        dtype=leaf.dtype,
        whole=tuple(leaf.global_shape),
        offset=tuple(leaf.global_offset),
        shape=(1,) * leaf.prepend_axis_num + tuple(leaf.local_shape),
    )


def _pickled(value: object) -> bytes:
    sink = io.BytesIO()
    # megatron.core keeps a list of all that has one key.
    torch.save([value], sink)
    return sink.getvalue()


def model_state(model: LoadableModel, components: Iterable[Component]) -> ShardedStateDict:
    """This process's part of some components."""
    wanted = set(components)
    return {key: value for key, value in model.sharded_model_state().items() if component_of(key) in wanted}


def ranges_of(folder: Path, state: ShardedStateDict) -> dict[str, list[Range]]:
    """Which bytes of which files hold what `state` asks for, and the non-tensor state, by the folder's `.metadata`."""
    metadata, boxes, objects = _metadata(folder), defaultdict(list), set()
    for leaf in nested_values(load_preprocess(state)[0]):
        if isinstance(leaf, ShardedTensor):
            shape = (1,) * leaf.prepend_axis_num + tuple(leaf.local_shape)
            boxes[leaf.key].append(Box(tuple(leaf.global_offset), shape))
        elif isinstance(leaf, ShardedObject):
            objects.add(leaf.unique_key)
    stored_boxes = {
        (name, tuple(chunk.offsets)): Box(tuple(chunk.offsets), tuple(chunk.sizes))
        for name, entry in metadata.state_dict_metadata.items()
        if isinstance(entry, TensorStorageMetadata)
        for chunk in entry.chunks
    }
    ranges: dict[str, list[Range]] = defaultdict(list)
    for index, place in metadata.storage_data.items():
        if index.offset is None:
            needed = index.fqn.startswith(_COMMON_STATE) or index.fqn in objects
        else:
            stored = stored_boxes[index.fqn, tuple(index.offset)]
            needed = any(stored.meets(box) for box in boxes[index.fqn])
        if needed:
            ranges[place.relative_path].append(Range(place.offset, place.length))
    return ranges


def load(state: ShardedStateDict, folder: Path) -> ShardedStateDict:
    """Load what `state` asks for, saved at any layout, into its tensors. Collective.

    Raises:
        MissingTensorsError: the checkpoint lacks a tensor, or has it in another global shape.
        ShardError: the folder cannot be read.
    """
    try:
        loaded: ShardedStateDict = dist_checkpointing.load(state, str(folder), strict=StrictHandling.RAISE_UNEXPECTED)
        return loaded
    except (CheckpointingException, CheckpointException, KeyError, ValueError) as error:
        raise MissingTensorsError(f"the checkpoint does not fit the job's model: {error}") from error
    except (RuntimeError, AssertionError) as error:
        raise ShardError(f"cannot read the shards in {folder}: {error}") from error


def _metadata(folder: Path) -> Metadata:
    return FileSystemReader(folder).read_metadata()
