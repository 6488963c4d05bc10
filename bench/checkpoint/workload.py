"""The bytes that every contender stores: shard files, and the same bytes as tensors (which need torch)."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

TENSOR_BYTES = 16 * 2**20
"""A tensor, as large as a linear layer of a small model."""

_BLOCK = 2**24


def write_shards(folder: Path, total: int, shards: int, *, seed: int = 0) -> int:
    """Random bytes, which no layer can compress, in files of equal size, whole pages each; returns their sum."""
    folder.mkdir(parents=True)
    size = max(1, round(total / shards / 4096)) * 4096
    for number in range(shards):
        random = np.random.default_rng([seed, number])
        with (folder / f"shard-{number:02d}").open("wb") as file:
            for begin in range(0, size, _BLOCK):
                file.write(random.bytes(min(_BLOCK, size - begin)))
    return size * shards


def files(folder: Path) -> list[Path]:
    """The shard files in order."""
    return sorted(folder.iterdir())


def total(folder: Path) -> int:
    """Bytes of all shards."""
    return sum(path.stat().st_size for path in files(folder))


def state_dict(folder: Path) -> "dict[str, torch.Tensor]":
    """The same bytes as bf16 vectors of TENSOR_BYTES, the last one of each shard shorter."""
    return {name: tensor for path in files(folder) for name, tensor in _tensors(path).items()}


def _tensors(path: Path) -> "dict[str, torch.Tensor]":
    import torch

    tensors = {}
    data = np.memmap(path, dtype=np.uint8, mode="r")
    for begin in range(0, len(data), TENSOR_BYTES):
        # A storage of its own, as parameters have, and no view of the whole file.
        part = torch.from_numpy(np.array(data[begin : begin + TENSOR_BYTES]))
        tensors[f"{path.name}.{begin // TENSOR_BYTES:04d}"] = part.view(torch.bfloat16)
    return tensors


def check_state_dict(found: "dict[str, torch.Tensor]", folder: Path) -> None:
    """Raises AssertionError where tensors differ from the shards in any bit (random bf16 holds NaN)."""
    import torch

    seen = 0
    for path in files(folder):  # one file in memory at a time
        for name, tensor in _tensors(path).items():
            same = torch.equal(tensor.view(torch.uint8), found[name].view(torch.uint8))
            assert same, f"tensor {name} came back with other bytes"
            seen += 1
    assert len(found) == seen, f"{len(found)} tensors were loaded, of {seen}"


def check_files(folder: Path, shards: Path) -> None:
    """Raises AssertionError where a file differs from the shard of the same name."""
    for path in files(shards):
        expected, found = np.memmap(path, mode="r"), np.memmap(folder / path.name, mode="r")
        assert np.array_equal(expected, found), f"{path.name} came back with other bytes"
