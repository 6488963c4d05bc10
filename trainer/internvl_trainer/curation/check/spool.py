"""What is found of each sample, on disk until the end: 32 bytes a sample, however many there are."""

from pathlib import Path
from typing import BinaryIO

import numpy as np

from internvl_trainer.data.index.rows import ROW


class Spool:
    """Rows and ids of one data set's samples, in its order.

    Args:
        folder: gets two files, which whoever made the folder removes.
        name: of the files, unique in the folder.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._paths = folder / f"{name}.rows", folder / f"{name}.ids"
        self._files: tuple[BinaryIO, ...] = tuple(path.open("wb") for path in self._paths)

    def add(self, rows: np.ndarray, ids: np.ndarray) -> None:
        """ROW[samples] and uint64[samples]."""
        for file, values in zip(self._files, (rows, ids), strict=True):
            file.write(values.tobytes())

    def finish(self) -> tuple[np.ndarray, np.ndarray]:
        """Everything that was added, as memory maps."""
        self.close()
        rows, ids = self._paths
        return _mapped(rows, ROW), _mapped(ids, np.dtype(np.uint64))

    def close(self) -> None:
        """Nothing can be added afterwards."""
        for file in self._files:
            file.close()


def _mapped(path: Path, dtype: np.dtype) -> np.ndarray:
    # A file of no bytes cannot be mapped.
    return np.memmap(path, dtype=dtype, mode="r") if path.stat().st_size else np.empty(0, dtype=dtype)
