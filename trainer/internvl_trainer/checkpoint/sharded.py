"""The torch_dist folder of a checkpoint, by megatron.core.dist_checkpointing: the only file here that knows megatron.

Whole tensors are written and read without it, and without processes, by torch_dist_writer.py and torch_dist_reader.py.

What lies where, as nodes share no file system: each rank writes its own `__<rank>_<n>.distcp` into its node's folder,
and `optimizer__<rank>_<n>.distcp` for optimizer tensors, so that a handoff need not fetch these. Rank 0 alone writes
`.metadata` (which tensor lies in which file at which offset), `metadata.json` and, among its shards, the non-tensor
state. A loading node needs the files of the tensors that it asks for and these two.
"""

import queue
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing import ShardedObject, ShardedTensor
from megatron.core.dist_checkpointing.core import CheckpointingException
from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.state_dict_utils import load_preprocess
from megatron.core.dist_checkpointing.strategies import filesystem_async
from megatron.core.dist_checkpointing.strategies.torch import TorchDistSaveShardedStrategy
from megatron.core.dist_checkpointing.validation import StrictHandling
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata

from internvl_trainer.checkpoint.components import OPTIMIZER, component_of
from internvl_trainer.checkpoint.errors import MissingTensorsError, ShardError
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


def write(engine: Checkpointable, folder: Path) -> None:
    """Write model and optimizer into `folder`, which exists on every node and is empty. Collective.

    Raises:
        ShardError: on all ranks if a shard could not be written; on rank 0 alone if the shards of all ranks together
            are no partition of the tensors, which is a bug of the model: the launcher then ends the peers.
    """
    state = {**engine.sharded_model_state(), OPTIMIZER: engine.sharded_optimizer_state()}
    _keep_write_results_in_process()
    strategy = TorchDistSaveShardedStrategy(thread_count=2, separation_hint=OPTIMIZER)
    try:
        dist_checkpointing.save(state, str(folder), strategy)
    except (CheckpointingException, CheckpointException) as error:
        raise ShardError(f"cannot write shards to {folder}: {error}") from error


def tensor_names(folder: Path) -> tuple[str, ...]:
    """Names of all sharded tensors and objects in a folder with `.metadata`."""
    return tuple(_metadata(folder).state_dict_metadata)


def model_state(model: LoadableModel, components: Iterable[Component]) -> ShardedStateDict:
    """This process's part of some components."""
    wanted = set(components)
    return {key: value for key, value in model.sharded_model_state().items() if component_of(key) in wanted}


def files_of(folder: Path, state: ShardedStateDict) -> set[str]:
    """Files that hold anything of what `state` asks for, or the non-tensor state, by the folder's `.metadata`."""
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
    files = set()
    for index, place in metadata.storage_data.items():
        if index.offset is None:
            needed = index.fqn.startswith(_COMMON_STATE) or index.fqn in objects
        else:
            stored = stored_boxes[index.fqn, tuple(index.offset)]
            needed = any(stored.meets(box) for box in boxes[index.fqn])
        if needed:
            files.add(place.relative_path)
    return files


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


def _keep_write_results_in_process() -> None:
    """Spare the manager process through which megatron.core passes write results, even in a synchronous save.

    Each rank would spawn one at its first save: seconds of importing, some 300 MB, and the program's main module
    imported a second time. A synchronous save writes in its own process, where an ordinary queue does the same.
    """
    if filesystem_async._results_queue is None:
        filesystem_async._results_queue = queue.SimpleQueue()


def _metadata(folder: Path) -> Metadata:
    return FileSystemReader(folder).read_metadata()
