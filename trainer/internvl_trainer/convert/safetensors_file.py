"""The safetensors format, as far as streaming needs it: a header that is read alone, tensors one at a time.

A file is eight bytes with the header's length, the header (JSON: name -> dtype, shape, first and last byte), and the
tensors' bytes without gaps. The `safetensors` library reads whole local files only; here a tensor is fetched from any
store, and written as soon as it is known. Tests hold both against the library.
"""

import json
from collections.abc import Callable, Sequence
from math import prod
from typing import Any, BinaryIO, NamedTuple

import torch

from internvl_trainer.contract.tensors import Shape
from internvl_trainer.convert.errors import FolderError

LENGTH_BYTES = 8
MAX_HEADER = 100 * 1024 * 1024
"""The format's own limit."""

DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32, "F64": torch.float64}
"""Dtypes that weights come in; a quantised folder has others."""

_CODES = {dtype: code for code, dtype in DTYPES.items()}


class TensorSpec(NamedTuple):
    """A tensor that a file is going to hold."""

    name: str
    shape: Shape
    dtype: torch.dtype

    @property
    def size(self) -> int:
        """Bytes of its elements."""
        return prod(self.shape) * self.dtype.itemsize


class StoredTensor(NamedTuple):
    """A tensor in a file: `offset` counts from the file's first byte."""

    file: str
    dtype: str
    shape: Shape
    offset: int
    size: int


def read_header(file: str, file_size: int, read: Callable[[int, int], bytes]) -> dict[str, StoredTensor]:
    """What a file holds.

    Args:
        file: its name, for errors and for the result.
        file_size: bytes.
        read: gives some bytes of it: offset, length.

    Raises:
        FolderError: the file is no safetensors file, or ends before its header says.
    """
    length = int.from_bytes(read(0, LENGTH_BYTES), "little")
    data = LENGTH_BYTES + length
    if not 0 < length <= min(MAX_HEADER, file_size - LENGTH_BYTES):
        raise FolderError(f"{file} is no safetensors file: its {file_size} bytes do not begin with a header's length")
    try:
        entries: dict[str, dict[str, Any]] = json.loads(read(LENGTH_BYTES, length))
        entries.pop("__metadata__", None)
        tensors = {name: _stored(file, entry, data) for name, entry in entries.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FolderError(f"{file} is no safetensors file: its header cannot be read ({error})") from error
    end = max((tensor.offset + tensor.size for tensor in tensors.values()), default=data)
    if end != file_size:
        raise FolderError(f"{file} has {file_size} bytes, its header says {end}; fetch the file again")
    return tensors


def empty(name: str, stored: StoredTensor) -> torch.Tensor:
    """An uninitialised tensor to hold a stored one.

    Raises:
        FolderError: it is of a dtype that no weight has.
    """
    dtype = DTYPES.get(stored.dtype)
    if dtype is None:
        raise FolderError(
            f"tensor {name} in {stored.file} is of dtype {stored.dtype}; {', '.join(DTYPES)} can be read: "
            "give a folder that is not quantised"
        )
    tensor = torch.empty(stored.shape, dtype=dtype)
    if tensor.nbytes != stored.size:
        raise FolderError(
            f"tensor {name} in {stored.file} has {stored.size} bytes, its shape {stored.shape} takes {tensor.nbytes}"
        )
    return tensor


def buffer_of(tensor: torch.Tensor) -> memoryview:
    """The bytes of a contiguous tensor, without copying them."""
    # An empty tensor has no bytes to view it by.
    return memoryview(tensor.reshape(-1).view(torch.uint8).numpy()) if tensor.numel() else memoryview(b"")


def write_header(sink: BinaryIO, specs: Sequence[TensorSpec]) -> None:
    """The header of a file whose tensors, in this order, come right after it."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, shape, dtype in specs:
        end = offset + TensorSpec(name, shape, dtype).size
        header[name] = {"dtype": _CODES[dtype], "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    payload = json.dumps(header, separators=(",", ":")).encode()
    # Padded, so that the tensors begin at a multiple of eight, which readers that map the file rely on.
    payload += b" " * (-len(payload) % LENGTH_BYTES)
    sink.write(len(payload).to_bytes(LENGTH_BYTES, "little"))
    sink.write(payload)


def _stored(file: str, entry: dict[str, Any], data: int) -> StoredTensor:
    begin, end = entry["data_offsets"]
    return StoredTensor(file, entry["dtype"], tuple(entry["shape"]), data + begin, end - begin)
