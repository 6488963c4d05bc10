"""Looking at one part of an annotation file as training would: every line, its tokens, its pixels."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from internvl_trainer.curation.check.document import Fault
from internvl_trainer.curation.check.duplicates import hash_id
from internvl_trainer.data import boxes
from internvl_trainer.data.errors import BadSampleError
from internvl_trainer.data.index import GOOD, code_of
from internvl_trainer.data.index.chunks import split
from internvl_trainer.data.index.part import Measuring, Part, PartMeasurer
from internvl_trainer.data.records import Record, id_of, parse_record

READERS = 4
"""Threads of a worker that fetch and decode at once. Decoding frees the interpreter's lock, waiting for a store too."""

ODD_BOX = "unusual box"
"""Kind of a warning."""

NO_KEY = (0,)
"""Seed of what is drawn for a sample's pixels, such as the frames of a video: a check takes one draw of many."""


class Inspected(NamedTuple):
    """What was found in one part."""

    rows: np.ndarray
    """ROW[samples], as an index has them, in the file's order; what its pixels alone make bad is bad here, too."""
    ids: np.ndarray
    """uint64[samples]: hashes of the samples' ids."""
    bad: tuple[Fault, ...]
    warnings: tuple[Fault, ...]
    tiles_decoded: int


class _Look(NamedTuple):
    """What came of a sample that an index would take."""

    fault: BadSampleError | None
    oddities: tuple[str, ...]
    """Of its boxes."""
    tiles: int


class Inspector:
    """Inspects parts in one process, with the very code that indexes and trains.

    Args:
        measuring: by what rules.
        pixels: decode images and videos; else what text and headers of files say is all that is checked.
    """

    def __init__(self, measuring: Measuring, *, pixels: bool) -> None:
        self._measurer = PartMeasurer(measuring)
        self._reader = measuring.reader()
        self._pixels = pixels
        self._threads = ThreadPoolExecutor(READERS, thread_name_prefix="samples")

    def inspect(self, part: Part, first_line: int) -> Inspected:
        """Inspect the samples whose lines begin in a part; `first_line` is the 1-based number of its first line.

        Raises:
            StoreError: the store did not answer, which says nothing about a sample.
        """
        measured = self._measurer.measure(part, first_line)
        lines = {line.offset: line.content for line in split(part.annotation.read, part.annotation.size, *part[2:])}
        contents = [lines[offset] for offset in measured.rows["offset"].tolist()]
        ids = [id_of(content) for content in contents]
        rows = measured.rows.copy()
        bad = [Fault(file=part.source.annotation, **sample._asdict()) for sample in measured.bad]
        warnings, decoded = list[Fault](), 0
        good = np.flatnonzero(rows["reason"] == GOOD).tolist()
        looks = self._threads.map(lambda at: self._look(part, contents[at], int(rows[at]["line"])), good)
        for at, look in zip(good, looks, strict=True):
            decoded += look.tiles
            if look.fault is not None:
                rows[at]["reason"] = code_of(look.fault)
                rows[at]["tokens"] = rows[at]["tiles"] = 0
                detail = str(look.fault).removeprefix(f"sample {look.fault.sample}: ")
                bad.append(_fault(part, int(rows[at]["line"]), ids[at], look.fault.reason, detail))
            warnings += [_fault(part, int(rows[at]["line"]), ids[at], ODD_BOX, detail) for detail in look.oddities]
        bad.sort(key=lambda fault: fault.line)
        hashes = np.array([hash_id(each) for each in ids], dtype=np.uint64)
        return Inspected(rows, hashes, tuple(bad), tuple(warnings), decoded)

    def _look(self, part: Part, content: bytes | None, line: int) -> _Look:
        source = part.source
        record = parse_record(content or b"", source=source.name, line_number=line, annotation=source.annotation)
        try:
            tiles = self._decode(part, record) if self._pixels else 0
        except BadSampleError as fault:
            return _Look(fault, (), 0)
        except Exception as error:
            error.add_note(f"while reading line {line} of {part.source.annotation}")
            raise
        return _Look(None, tuple(boxes.oddities(record)), tiles)

    def _decode(self, part: Part, record: Record) -> int:
        # Passing tiles through JPEG is training's own doing, and cannot fail.
        source = part.source.model_copy(update={"data_augment": False})
        return len(self._reader.load_tiles(self._reader.encode(record, source), NO_KEY))


def _fault(part: Part, line: int, sample_id: Any, reason: str, detail: str) -> Fault:
    return Fault(
        source=part.source.name, file=part.source.annotation, line=line, id=sample_id, reason=reason, detail=detail
    )
