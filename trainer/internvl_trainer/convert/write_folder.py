"""Writes a Hugging Face folder as its tensors come, one in memory at a time."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from internvl_trainer.convert.errors import FolderError
from internvl_trainer.convert.folder import CONFIG, INDEX, SINGLE
from internvl_trainer.convert.safetensors_file import TensorSpec, buffer_of, write_header
from internvl_trainer.storage.unfinished import unfinished

MAX_SHARD = 5_000_000_000
"""Bytes of tensors in one file, as Hugging Face cuts them; a larger tensor has a file of its own."""


def write_folder(
    folder: Path,
    specs: Sequence[TensorSpec],
    tensors: Iterable[tuple[str, torch.Tensor]],
    documents: dict[str, dict[str, Any]],
    *,
    max_shard: int = MAX_SHARD,
) -> None:
    """Write weights and JSON files.

    Each file appears under its name only when it is whole, and config.json last: a folder without it is not whole.

    Args:
        folder: made if it does not exist; must be empty.
        specs: names, shapes and dtypes of all tensors.
        tensors: name and value in the order of `specs`; taken one at a time, and cast to the dtype asked for.
        documents: file name -> content; config.json among them.
        max_shard: bytes of tensors in one file.

    Raises:
        FolderError: the folder is not empty, or the tensors are not those of `specs`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise FolderError(f"{folder} is not empty; give a new folder")
    shards = plan_shards(specs, max_shard)
    names = shard_names(len(shards))
    incoming = iter(tensors)
    for file, shard in zip(names, shards, strict=True):
        with unfinished(folder / file) as (temporary, sink):
            write_header(sink, shard)
            for spec in shard:
                sink.write(buffer_of(_as_specified(next(incoming, None), spec)))
            temporary.replace(folder / file)
    if (surplus := next(incoming, None)) is not None:
        raise FolderError(f"tensor {surplus[0]} came after all tensors that the folder was to hold")
    if len(shards) > 1:
        weight_map = {spec.name: file for file, shard in zip(names, shards, strict=True) for spec in shard}
        total = sum(spec.size for spec in specs)
        _write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})
    for file, content in sorted(documents.items(), key=lambda document: document[0] == CONFIG):
        _write_json(folder / file, content)


def plan_shards(specs: Sequence[TensorSpec], max_shard: int = MAX_SHARD) -> list[list[TensorSpec]]:
    """Tensors in order, cut into files of at most `max_shard` bytes; at least one file."""
    shards: list[list[TensorSpec]] = [[]]
    held = 0
    for spec in specs:
        if shards[-1] and held + spec.size > max_shard:
            shards.append([])
            held = 0
        shards[-1].append(spec)
        held += spec.size
    return shards


def shard_names(count: int) -> list[str]:
    """What `count` shards are called."""
    if count == 1:
        return [SINGLE]
    return [f"model-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]


def _as_specified(arrived: tuple[str, torch.Tensor] | None, spec: TensorSpec) -> torch.Tensor:
    if arrived is None:
        raise FolderError(f"the tensors ended before {spec.name}")
    name, tensor = arrived
    if name != spec.name or tuple(tensor.shape) != spec.shape:
        raise FolderError(
            f"tensor {name} of shape {tuple(tensor.shape)} came where {spec.name} of shape {spec.shape} was to come"
        )
    return tensor.detach().to("cpu", spec.dtype).contiguous()


def _write_json(path: Path, content: dict[str, Any]) -> None:
    with unfinished(path) as (temporary, sink):
        sink.write(json.dumps(content, indent=2, ensure_ascii=False).encode() + b"\n")
        temporary.replace(path)
