"""A check from end to end: parts to workers, what they find to the disk and the counters, a report at the end."""

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import ClassVar, NamedTuple

from internvl_trainer.curation.check.document import CheckReport
from internvl_trainer.curation.check.findings import Findings, Plan
from internvl_trainer.curation.check.inspection import Inspected, Inspector
from internvl_trainer.curation.check.parts import numbered_parts
from internvl_trainer.curation.check.pool import WorkerDiedError, run_in_order
from internvl_trainer.curation.check.progress import Seen
from internvl_trainer.curation.endings import OutputFileError
from internvl_trainer.data.index.lines import AnnotationFile, open_annotation
from internvl_trainer.data.index.part import Measuring, Part
from internvl_trainer.storage import StoreError

PIXEL_PART = 32 * 1024
"""Bytes of an annotation file that a worker decodes at a time: some tens of samples, a second or so of work."""

TEXT_PART = 1024 * 1024
"""The same without pixels."""


class Outcome(NamedTuple):
    """What a check has found, and what ended it before it was through."""

    report: CheckReport
    ended_by: KeyboardInterrupt | WorkerDiedError | StoreError | OutputFileError | None


def check(plan: Plan, bad_file: Path | None, watch: Callable[[Seen], None]) -> Outcome:
    """Read everything once.

    An interruption, a worker that dies, a store that does not answer and a full disk under `bad_file` end the check
    early; what was found until then is reported all the same.

    Args:
        bad_file: gets a line of JSON for each bad sample, in the order of the data, as soon as it is found.
        watch: told of progress, part by part.

    Raises:
        MetaError, OutputFileError: an annotation file does not exist, or `bad_file` cannot be written; nothing was read
            then.
    """
    measuring = plan.measuring
    files = [open_annotation(source.annotation, measuring.store, measuring.cache) for source in plan.sources]
    started, ended_by = time.monotonic(), None
    measuring.cache.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="check-", dir=measuring.cache) as folder,
        closing(Findings(plan, Path(folder), bad_file)) as findings,
    ):
        try:
            _read(plan, files, findings, watch)
        except (KeyboardInterrupt, WorkerDiedError, StoreError, OutputFileError) as error:
            ended_by = error
        return Outcome(findings.report(complete=ended_by is None, seconds=time.monotonic() - started), ended_by)


class _Task(NamedTuple):
    part: Part
    first_line: int
    source: int
    """Its place among the sources."""


def _read(plan: Plan, files: list[AnnotationFile], findings: Findings, watch: Callable[[Seen], None]) -> None:
    total, done = sum(file.size for file in files), 0
    results = run_in_order(
        _tasks(plan, files),
        _inspect,
        workers=plan.workers,
        begin=_begin,
        given=(plan.measuring, plan.pixels),
        describe=_describe,
    )
    # Closed by itself only when its frame is forgotten, which the traceback of an interruption prevents.
    with closing(results):
        for task, inspected in results:
            findings.add(task.source, inspected)
            done += task.part.end - task.part.begin
            watch(Seen(done, total, findings.samples, findings.bad, findings.tiles_decoded))


def _tasks(plan: Plan, files: list[AnnotationFile]) -> Iterator[_Task]:
    for number, (source, file) in enumerate(zip(plan.sources, files, strict=True)):
        for begin, end, first_line in numbered_parts(file, PIXEL_PART if plan.pixels else TEXT_PART):
            yield _Task(Part(source, file, begin, end), first_line, number)


class _Worker:
    """What a worker process has for its whole life."""

    inspector: ClassVar[Inspector]


def _begin(measuring: Measuring, pixels: bool) -> None:
    _Worker.inspector = Inspector(measuring, pixels=pixels)


def _inspect(task: _Task) -> Inspected:
    return _Worker.inspector.inspect(task.part, task.first_line)


def _describe(task: _Task) -> str:
    return f"{task.part.source.annotation} from line {task.first_line:,}"
