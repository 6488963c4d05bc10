"""Reads whole tensors from a torch_dist folder, one at a time, whatever process grid wrote it: no model, no processes.

A tensor is put together from the parts that meet it. Files are fetched when the first tensor needs them and let go
after the last one, so that no more lies in scratch than has to.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.utils import _create_file_view

from internvl_trainer.checkpoint.errors import MissingTensorsError, ShardError
from internvl_trainer.contract.boxes import Box
from internvl_trainer.contract.tensors import WholeTensor

VOCABULARY = ("embedding.word_embeddings.weight", "output_layer.weight")
"""Ends of the keys of tensors that may have more rows than asked for, which pad the vocabulary."""


class TorchDistReader:
    """The tensors of a torch_dist folder.

    Args:
        folder: has `.metadata`.
        fetch: brings a shard file into the folder, by its name. What is fetched is removed when it is done with.

    Raises:
        ShardError: `.metadata` cannot be read.
    """

    def __init__(self, folder: Path, fetch: Callable[[str], None]) -> None:
        self._folder = folder
        self._fetch = fetch
        self._entries, self._parts = _index(folder)

    def stream(self, wanted: Sequence[WholeTensor]) -> Iterator[tuple[WholeTensor, torch.Tensor]]:
        """The tensors asked for, in this order, one in memory at a time.

        Embedding and head come without rows that only pad the vocabulary, if `wanted` asks for fewer.

        Raises:
            MissingTensorsError: names every tensor that the folder lacks or has in another shape; before any fetch.
            ShardError: a shard's bytes cannot be read.
        """
        self.check(wanted)
        parts = [self._parts_of(tensor) for tensor in wanted]
        last_use = {part.file: number for number, each in enumerate(parts) for part in each}
        fetched: set[str] = set()
        for number, (tensor, each) in enumerate(zip(wanted, parts, strict=True)):
            files = {part.file for part in each}
            for file in sorted(files - fetched):
                self._fetch(file)
            fetched |= files
            yield tensor, self._assemble(tensor, each)
            for file in sorted(file for file in files if last_use[file] == number):
                (self._folder / file).unlink()

    def dtype(self, key: str) -> torch.dtype:
        """Of the tensor, or the stack of layers, with this key."""
        dtype: torch.dtype = self._entries[key].properties.dtype
        return dtype

    def check(self, wanted: Sequence[WholeTensor]) -> None:
        """Whether all these tensors are there, in these shapes.

        Raises:
            MissingTensorsError: names every tensor that is not.
        """
        faults = [fault for tensor in wanted if (fault := self._fault(tensor))]
        if faults:
            raise MissingTensorsError("the checkpoint does not hold the model asked for: " + "; ".join(faults[:10]))

    def _fault(self, tensor: WholeTensor) -> str | None:
        entry = self._entries.get(tensor.key)
        if entry is None:
            return f"{tensor.key} is missing"
        stored, asked = tuple(entry.size), tensor.shape
        if tensor.layer is not None:
            if not stored or tensor.layer >= stored[0]:
                return f"{tensor.key} has shape {list(stored)}, so no layer {tensor.layer}"
            stored = stored[1:]
        if tensor.key.endswith(VOCABULARY) and len(stored) == len(asked) and stored[0] >= asked[0]:
            stored = (asked[0], *stored[1:])
        return None if stored == asked else f"{tensor.key} has shape {list(stored)}, expected {list(asked)}"

    def _parts_of(self, tensor: WholeTensor) -> list["_Part"]:
        target = _box(tensor)
        parts = [part for part in self._parts[tensor.key] if part.box.meets(target)]
        covered = sum(part.box.common(target).volume for part in parts)
        if covered != target.volume:
            raise MissingTensorsError(f"the checkpoint has {covered} of {target.volume} elements of {tensor.key}")
        return parts

    def _assemble(self, tensor: WholeTensor, parts: list["_Part"]) -> torch.Tensor:
        target = _box(tensor)
        if len(parts) == 1:
            part = parts[0]
            return self._load(part)[part.box.common(target).within(part.box)].reshape(tensor.shape)
        whole = torch.empty(target.shape, dtype=self.dtype(tensor.key))
        for part in parts:
            common = part.box.common(target)
            whole[common.within(target)] = self._load(part)[common.within(part.box)]
        return whole.reshape(tensor.shape)

    def _load(self, part: "_Part") -> torch.Tensor:
        with ExitStack() as stack:
            stream = stack.enter_context((self._folder / part.file).open("rb"))
            view: Any = _create_file_view(stream, part.begin, part.length)
            try:
                loaded: torch.Tensor = torch.load(view, map_location="cpu", weights_only=True)
            except (RuntimeError, EOFError, OSError) as error:
                raise ShardError(f"cannot read a tensor at byte {part.begin} of {part.file}: {error}") from error
        return loaded


class _Part(NamedTuple):
    """One stored piece of a tensor: its box, and where its bytes lie."""

    box: Box
    file: str
    begin: int
    length: int


def _box(tensor: WholeTensor) -> Box:
    if tensor.layer is None:
        return Box((0,) * len(tensor.shape), tensor.shape)
    return Box((tensor.layer, *(0,) * len(tensor.shape)), (1, *tensor.shape))


def _index(folder: Path) -> tuple[dict[str, TensorStorageMetadata], dict[str, list[_Part]]]:
    try:
        metadata: Metadata = FileSystemReader(folder).read_metadata()
    except (OSError, ValueError, AttributeError, EOFError) as error:
        raise ShardError(f"cannot read {folder / '.metadata'}: {error}") from error
    entries = {
        key: entry for key, entry in metadata.state_dict_metadata.items() if isinstance(entry, TensorStorageMetadata)
    }
    sizes = {
        (key, tuple(chunk.offsets)): tuple(chunk.sizes) for key, entry in entries.items() for chunk in entry.chunks
    }
    parts: dict[str, list[_Part]] = defaultdict(list)
    for index, place in metadata.storage_data.items():
        if index.fqn in entries:
            box = Box(tuple(index.offset), sizes[index.fqn, tuple(index.offset)])
            parts[index.fqn].append(_Part(box, place.relative_path, place.offset, place.length))
    return entries, parts
