"""One data set as an index sees it: rows in a file that is mapped, records read again when they are asked for."""

import json
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from internvl_trainer.data.errors import TooManyBadSamplesError
from internvl_trainer.data.index.header import IndexHeader
from internvl_trainer.data.index.lines import AnnotationFile
from internvl_trainer.data.index.part import BadSample
from internvl_trainer.data.index.rows import ROW
from internvl_trainer.data.records import Record, parse_record
from internvl_trainer.data.sources import Source


class IndexFiles(NamedTuple):
    """Where a node has the files of an index."""

    rows: Path
    bad_samples: Path


class SourceIndex:
    """The samples of one data set, good and bad, in the order of its file.

    Opening one takes the same time and memory at any size: rows stay in their file, and the system's page cache holds
    what is looked at, once for all processes. It can be pickled, and used by several threads.

    Attributes:
        source: the data set.
        header: what is known of the whole.
        files: where the node has them.
        built: whether it was built when it was opened, and not found.
    """

    def __init__(
        self, source: Source, header: IndexHeader, files: IndexFiles, annotation: AnnotationFile, *, built: bool = False
    ) -> None:
        self.source = source
        self.header = header
        self.built = built
        self.files = files
        self._annotation = annotation

    def __len__(self) -> int:
        return self.header.samples

    def __getstate__(self) -> dict[str, object]:
        # A mapped array would travel with all its bytes.
        return {name: value for name, value in self.__dict__.items() if name != "rows"}

    @cached_property
    def rows(self) -> np.ndarray:
        """ROW[samples], read-only."""
        return np.memmap(self.files.rows, dtype=ROW, mode="r")

    def record(self, row: int) -> Record:
        """Read and parse the line of a good sample again.

        Raises:
            AnnotationChangedError, ObjectChangedError: the annotation file is not the one that was indexed.
            StoreError: the store did not answer.
        """
        at = self.rows[row]
        line = self._annotation.read(int(at["offset"]), int(at["size"]))
        number = int(at["line"])
        return parse_record(line, source=self.source.name, line_number=number, annotation=self.source.annotation)

    def bad_samples(self) -> Iterator[BadSample]:
        """Every sample that cannot be used, in the order of the file, one at a time."""
        with self.files.bad_samples.open("rb") as file:
            for line in file:
                yield BadSample(**json.loads(line))


def check_budget(index: SourceIndex, max_bad_fraction: float) -> None:
    """See to it that a data set has few bad samples.

    Raises:
        TooManyBadSamplesError: more than this share of its samples is unusable, or all are.
    """
    header = index.header
    if header.bad <= max_bad_fraction * header.samples and header.bad < header.samples:
        return
    raise TooManyBadSamplesError(
        f"data set {header.source!r}: {header.bad:,} of {header.samples:,} samples are unusable, limit "
        f"{max_bad_fraction * 100:.4g}% ({header.reasons_in_words}); mend or remove them, or raise max_bad_fraction; "
        f"first: {'; '.join(header.messages[:3])}"
    )
