"""One part of an annotation file, line by line: each sample measured, or given a reason why it cannot be used."""

import json
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from internvl_trainer.contract.catalog import ModelGeometry
from internvl_trainer.contract.job import DataConfig
from internvl_trainer.data.errors import BadSampleError, MalformedRecordError
from internvl_trainer.data.index import chunks
from internvl_trainer.data.index.chunks import Line
from internvl_trainer.data.index.lines import AnnotationFile
from internvl_trainer.data.index.rows import GOOD, ROW, code_of
from internvl_trainer.data.media import MediaReader
from internvl_trainer.data.records import LONGEST_LINE, Kind, Record, id_of, parse_record, sample_name
from internvl_trainer.data.samples import Measured, SampleReader
from internvl_trainer.data.sources import Source
from internvl_trainer.data.tokenizer import Tokenizer
from internvl_trainer.storage import ObjectStore

MEDIA_THREADS = 16
"""Threads of a process that read the headers of images, as a rule waiting for the store."""

VIDEO_THREADS = 2
"""Threads of a process that look into videos, which a remote store gives only as a whole."""

_LARGEST_SIZE = int(np.iinfo(ROW["size"]).max)


class BadSample(NamedTuple):
    """A sample that cannot be trained on."""

    source: str
    line: int
    """1-based number of its line."""
    id: Any
    """As the line gives it; None where it has none, or is no JSON."""
    reason: str
    """The kind of fault, one of a fixed list."""
    detail: str

    def to_json(self) -> bytes:
        """One line of a file of bad samples, with its newline."""
        return json.dumps(self._asdict(), ensure_ascii=False).encode(errors="replace") + b"\n"


class Part(NamedTuple):
    """One part of an annotation file, to be measured."""

    source: Source
    annotation: AnnotationFile
    begin: int
    end: int

    def count_lines(self) -> int:
        """How many lines begin in it."""
        return chunks.count_lines(self.annotation.read, self.begin, self.end)


class MeasuredPart(NamedTuple):
    """The samples whose lines begin in one part of an annotation file."""

    rows: np.ndarray
    """ROW[samples], good and bad, in the file's order."""
    bad: tuple[BadSample, ...]
    messages: tuple[str, ...]
    """Of the bad ones, for people: with the sample's full name."""
    size: int
    """Bytes of the part."""


@dataclass(frozen=True)
class Measuring:
    """By what samples are measured. It goes to other processes once, not with every part."""

    data: DataConfig
    model: ModelGeometry
    tokenizer: Tokenizer
    store: ObjectStore
    cache: Path

    def reader(self) -> SampleReader:
        """A reader for the process that calls this."""
        return SampleReader(self.data, self.model, self.tokenizer, MediaReader(self.store))


class _Outcome(NamedTuple):
    """What came of one line: `measured`, or else `fault`. `kind` is known if the line could be parsed."""

    measured: Measured | None
    fault: BadSampleError | None
    kind: Kind = Kind.TEXT


class PartMeasurer:
    """Measures parts in one process. Close it at the end: it has threads."""

    def __init__(self, measuring: Measuring) -> None:
        self._reader = measuring.reader()
        self._images = ThreadPoolExecutor(MEDIA_THREADS, thread_name_prefix="images")
        self._videos = ThreadPoolExecutor(VIDEO_THREADS, thread_name_prefix="videos")

    def close(self) -> None:
        """End the threads; nothing can be measured afterwards."""
        self._images.shutdown()
        self._videos.shutdown()

    def measure(self, part: Part, first_line: int) -> MeasuredPart:
        """Measure the samples whose lines begin in a part; `first_line` is the 1-based number of its first line."""
        lines = list(_not_blank(part, first_line))
        begun = [(number, line, self._begin(part, number, line)) for number, line in lines]
        rows = np.zeros(len(lines), dtype=ROW)
        bad, messages = [], []
        for at, (number, line, outcome) in enumerate(begun):
            measured, fault, kind = outcome.result() if isinstance(outcome, Future) else outcome
            size = min(line.size, _LARGEST_SIZE)
            if measured is not None:
                rows[at] = (line.offset, size, number, measured.tokens, measured.tiles, measured.kind, GOOD)
            elif fault is not None:
                rows[at] = (line.offset, size, number, 0, 0, kind, code_of(fault))
                bad.append(_described(part.source, number, line, fault))
                messages.append(str(fault))
        return MeasuredPart(rows, tuple(bad), tuple(messages), part.end - part.begin)

    def _begin(self, part: Part, number: int, line: Line) -> "_Outcome | Future[_Outcome]":
        try:
            record = _parsed(part.source, number, line)
        except BadSampleError as fault:
            return _Outcome(None, fault)
        if record.kind is Kind.VIDEO:
            return self._videos.submit(self._measure, part, number, record)
        if record.images and record.sizes is None:
            return self._images.submit(self._measure, part, number, record)
        return self._measure(part, number, record)

    def _measure(self, part: Part, number: int, record: Record) -> _Outcome:
        try:
            return _Outcome(self._reader.measure(record, part.source), None)
        except BadSampleError as fault:
            return _Outcome(None, fault, record.kind)
        except Exception as error:
            error.add_note(f"while measuring line {number} of {part.annotation.name}")
            raise


def _not_blank(part: Part, first_line: int) -> Iterator[tuple[int, Line]]:
    lines = chunks.split(part.annotation.read, part.annotation.size, part.begin, part.end)
    for number, line in enumerate(lines, start=first_line):
        if line.content is None or line.content.strip():
            yield number, line


def _parsed(source: Source, number: int, line: Line) -> Record:
    if line.content is None:
        raise MalformedRecordError(
            sample_name(source.name, source.annotation, number),
            f"the line has {line.size:,} bytes, and a record at most {LONGEST_LINE:,}; "
            "the file may not be JSONL, with one record a line",
        )
    return parse_record(line.content, source=source.name, line_number=number, annotation=source.annotation)


def _described(source: Source, number: int, line: Line, fault: BadSampleError) -> BadSample:
    detail = str(fault).removeprefix(f"sample {fault.sample}: ")
    return BadSample(source.name, number, id_of(line.content), fault.reason, detail)
