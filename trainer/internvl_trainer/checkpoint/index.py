"""The index files of a torch_dist folder: which part of which tensor lies in which file at which offset.

`.metadata` is a pickled torch.distributed.checkpoint Metadata, `metadata.json` tells megatron.core what it is.
"""

import json
import pickle
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import NamedTuple

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

from internvl_trainer.checkpoint.errors import ShardError
from internvl_trainer.checkpoint.staging import Placed

INDEX = ".metadata"
BACKEND_FILE = "metadata.json"
BACKEND = {"sharded_backend": "torch_dist", "sharded_backend_version": 1}


class PlacedObject(NamedTuple):
    """Where in a file something lies that is no tensor."""

    key: str
    file: str
    begin: int
    length: int


def index_files(tensors: Iterable[Placed], objects: Iterable[PlacedObject]) -> dict[str, bytes]:
    """Names and contents of the index files for what all ranks have placed.

    Raises:
        ShardError: two ranks have different ideas of one tensor.
    """
    chunks: dict[str, list[Placed]] = defaultdict(list)
    places: dict[MetadataIndex, _StorageInfo] = {}
    for each in tensors:
        piece = each.piece
        chunks[piece.key].append(each)
        places[MetadataIndex(piece.key, torch.Size(piece.offset))] = _StorageInfo(each.file, each.begin, each.length)
    entries: dict[str, TensorStorageMetadata | BytesStorageMetadata] = {
        key: _entry(key, parts) for key, parts in chunks.items()
    }
    for found in objects:
        entries[found.key] = BytesStorageMetadata()
        places[MetadataIndex(found.key)] = _StorageInfo(found.file, found.begin, found.length)
    metadata = Metadata(state_dict_metadata=entries, storage_data=places, version=CURRENT_DCP_VERSION)
    return contents(metadata)


def contents(metadata: Metadata) -> dict[str, bytes]:
    """Names and contents of the index files."""
    files: Mapping[str, bytes] = {INDEX: pickle.dumps(metadata), BACKEND_FILE: json.dumps(BACKEND).encode()}
    return dict(files)


def _entry(key: str, parts: list[Placed]) -> TensorStorageMetadata:
    kinds = {(each.piece.dtype, each.piece.whole) for each in parts}
    if len(kinds) > 1:
        raise ShardError(f"ranks disagree about tensor {key}: {', '.join(map(str, sorted(kinds, key=str)))}")
    ((dtype, whole),) = kinds
    stored = [ChunkStorageMetadata(torch.Size(each.piece.offset), torch.Size(each.piece.shape)) for each in parts]
    return TensorStorageMetadata(TensorProperties(dtype), torch.Size(whole), stored)
