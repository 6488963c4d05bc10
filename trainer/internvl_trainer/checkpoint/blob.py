"""What `torch.save` makes of a tensor, without the tensor: the bytes around its values.

A shard file of a torch_dist checkpoint is one such archive per tensor. Only the values change from save to save, so
they can be copied into place, from any device, in a file that already has everything else.
"""

import io
from functools import lru_cache
from typing import IO, NamedTuple, cast

import torch
from torch.utils.serialization import config

ALIGNMENT = 64
"""Values begin at a multiple of this in their archive, and archives in their file."""


class Blob(NamedTuple):
    """An archive with one contiguous tensor: head, values, tail."""

    head: bytes
    values: int
    """Bytes of the values."""
    tail: bytes

    @property
    def size(self) -> int:
        """Bytes of the whole archive."""
        return len(self.head) + self.values + len(self.tail)


@lru_cache(maxsize=4096)
def blob_of(dtype: torch.dtype, shape: tuple[int, ...]) -> Blob:
    """The archive of any tensor of this dtype and shape.

    It has no CRC of the values, at which `torch.load` does not look: the manifest has better digests. No memory is
    touched for the values.
    """
    tensor, sink = torch.empty(shape, dtype=dtype), _SinkWithGap()
    settings = {"save.compute_crc32": False, "save.storage_alignment": ALIGNMENT}
    with torch.serialization.skip_data(), config.patch(settings):  # type: ignore[attr-defined]
        torch.save(tensor, cast(IO[bytes], sink))
    if sink.gap != tensor.nbytes:
        raise RuntimeError(
            f"torch.save left {sink.gap} bytes for the {tensor.nbytes} of a {dtype} tensor of shape {shape}; "
            f"torch {torch.__version__} writes archives in another way than this module knows"
        )
    return Blob(bytes(sink.head), tensor.nbytes, bytes(sink.tail))


class _SinkWithGap(io.RawIOBase):
    """Keeps what is written before and after the one stretch that the writer passes over."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.tail, self.gap = bytearray(), bytearray(), 0

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return len(self.head) + self.gap + len(self.tail)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence != io.SEEK_CUR or self.gap:
            raise io.UnsupportedOperation("torch.save passes over values once, and goes on behind them")
        self.gap = offset
        return self.tell()

    def write(self, chunk: bytes) -> int:  # type: ignore[override]
        (self.tail if self.gap else self.head).extend(chunk)
        return len(chunk)
