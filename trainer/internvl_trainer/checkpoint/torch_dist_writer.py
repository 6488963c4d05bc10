"""Writes a torch_dist folder of whole tensors, one at a time: no model, no processes, no megatron.

The folder is one that megatron.core.dist_checkpointing reads: index files (index.py) and shard files of one component
each, in which each part is a tensor by `torch.save`. Tensors of a stack of layers are one tensor with the layers as its
first axis, of which each part here is one layer. `sharded.load` reads it at any process grid.
"""

import re
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NamedTuple

import torch
from torch.distributed.checkpoint.filesystem import CURRENT_DCP_VERSION, _StorageInfo
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)

from internvl_trainer.checkpoint.components import STATE, component_of
from internvl_trainer.checkpoint.errors import IncompleteTensorError
from internvl_trainer.checkpoint.index import BACKEND_FILE, INDEX, contents
from internvl_trainer.checkpoint.staging import SHARD_BYTES
from internvl_trainer.contract.tensors import WholeTensor

COMMON_STATE = "common_state/shard_0_1"
"""megatron.core's key for what a checkpoint holds besides tensors."""


class TorchDistWriter:
    """A torch_dist folder in the making; as a context manager it is complete when the block ends without an error.

    Args:
        folder: exists, and is empty.
        finished: gets each file as soon as nothing more is written to it, and may move it away. The index files come
            last.
        shard_bytes: size at which a new shard file is begun.
    """

    def __init__(self, folder: Path, finished: Callable[[Path], None], *, shard_bytes: int = SHARD_BYTES) -> None:
        self._folder = folder
        self._finished = finished
        self._limit = shard_bytes
        self._shards = 0
        self._component = STATE
        self._stream: BinaryIO | None = None
        self._stacks: dict[str, _Stack] = {}
        self._places: dict[MetadataIndex, _StorageInfo] = {}

    def __enter__(self) -> "TorchDistWriter":
        # A file of its own: every loader reads it, and should not fetch gigabytes of weights along with it.
        torch.save([{}], self._open())
        self._places[MetadataIndex(COMMON_STATE)] = self._placed(0)
        self._close()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._finish()
        elif self._stream is not None:
            self._stream.close()

    @property
    def names(self) -> tuple[str, ...]:
        """Keys of all that has been written, in the form that manifests list."""
        return (*self._stacks, COMMON_STATE)

    def add(self, whole: WholeTensor, values: torch.Tensor) -> None:
        """Write one tensor; of a stack, one layer. Layers may come in any order.

        Raises:
            IncompleteTensorError: its values have another shape than it, or another shape or dtype than other layers
                of its stack.
        """
        stack = self._stacks.setdefault(whole.key, _Stack(tuple(values.shape), values.dtype, {}))
        if tuple(values.shape) != whole.shape or (stack.shape, stack.dtype) != (whole.shape, values.dtype):
            raise IncompleteTensorError(
                f"{_name(whole)} is {values.dtype} {list(values.shape)}; it should have shape {list(whole.shape)}, "
                f"and its other layers are {stack.dtype} {list(stack.shape)}"
            )
        data = _compact(values if whole.layer is None else values[None])
        offset = torch.Size([whole.layer or 0, *[0] * (data.dim() - 1)])
        index = MetadataIndex(whole.key, offset)
        if whole.layer in stack.chunks:
            raise IncompleteTensorError(f"{_name(whole)} has been written already")
        stack.chunks[whole.layer] = ChunkStorageMetadata(offset, data.size())
        stream = self._room_for(data.nbytes, component_of(whole.key))
        begin = stream.tell()
        torch.save(data, stream)
        self._places[index] = self._placed(begin)

    def _room_for(self, size: int, component: str) -> BinaryIO:
        full = self._stream is not None and self._stream.tell() and self._stream.tell() + size > self._limit
        if full or component != self._component:
            self._close()
        self._component = component
        return self._stream or self._open()

    def _open(self) -> BinaryIO:
        self._stream = (self._folder / self._shard).open("xb")
        return self._stream

    @property
    def _shard(self) -> str:
        return f"{self._component}__0_{self._shards}.distcp"

    def _placed(self, begin: int) -> _StorageInfo:
        assert self._stream is not None
        return _StorageInfo(self._shard, begin, self._stream.tell() - begin)

    def _close(self) -> None:
        if self._stream is not None:
            path = self._folder / self._shard
            self._stream.close()
            self._stream, self._shards = None, self._shards + 1
            self._finished(path)

    def _finish(self) -> None:
        tensors = {key: stack.metadata(key) for key, stack in self._stacks.items()}
        self._close()
        metadata = Metadata(
            state_dict_metadata={**tensors, COMMON_STATE: BytesStorageMetadata()},
            storage_data=self._places,
            version=CURRENT_DCP_VERSION,
        )
        for name, content in contents(metadata).items():
            (self._folder / name).write_bytes(content)
            self._finished(self._folder / name)


class _Stack(NamedTuple):
    """What has been written under one key: a tensor alone, under None, or layers by number."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    chunks: dict[int | None, ChunkStorageMetadata]

    def metadata(self, key: str) -> TensorStorageMetadata:
        """What `.metadata` says of the key; layers must be all there."""
        layers = sorted(layer for layer in self.chunks if layer is not None)
        if layers != list(range(len(layers))) or (layers and None in self.chunks):
            raise IncompleteTensorError(f"{key} has layers {layers}; a stack has all layers from 0 on, no others")
        size = torch.Size([len(layers), *self.shape] if layers else self.shape)
        chunks = [self.chunks[layer] for layer in layers] if layers else [self.chunks[None]]
        return TensorStorageMetadata(TensorProperties(self.dtype), size, chunks)


def is_file_of_ours(name: str) -> bool:
    """Whether a file is called as this writer calls its files."""
    return name in (INDEX, BACKEND_FILE) or re.fullmatch(r"[a-z]+__0_\d+\.distcp", name) is not None


def _name(whole: WholeTensor) -> str:
    return whole.key if whole.layer is None else f"{whole.key}, layer {whole.layer}"


def _compact(values: torch.Tensor) -> torch.Tensor:
    """The tensor with a storage of its own size: `torch.save` writes the whole storage of a view."""
    values = values.detach().contiguous()
    return values.clone() if values.untyped_storage().nbytes() != values.nbytes else values
