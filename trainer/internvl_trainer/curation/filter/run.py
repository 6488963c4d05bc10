"""The run: judge by rules, ask the model, then write every line into one of three files.

Three passes over each file, each streaming: what the rules find lies on disk between them, scores lie in the journal,
so that memory holds one range of lines per process, whatever the size of the data.
"""

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from internvl_trainer.curation.filter import folder, report
from internvl_trainer.curation.filter.decisions import Decisions
from internvl_trainer.curation.filter.errors import FilterError
from internvl_trainer.curation.filter.examine import Fate, Flag, fate, parsed
from internvl_trainer.curation.filter.inputs import DataSet, LocalFile, filtered_meta, local_file
from internvl_trainer.curation.filter.lines import RANGE, Line
from internvl_trainer.curation.filter.policy import QUALITY_SCORE, Action, Policy
from internvl_trainer.curation.filter.spool import processes, with_flags, write_spool
from internvl_trainer.data.records import Record
from internvl_trainer.storage import ObjectStore

if TYPE_CHECKING:
    from internvl_trainer.curation.filter.judge.journal import Journal
    from internvl_trainer.curation.filter.judge.questions import Question

Stage = Callable[[str, int, str], AbstractContextManager[Callable[[int], None]]]
"""Opens a progress bar: what is done, how much there is, of which unit; what it yields is told of progress."""


@dataclass(frozen=True)
class Request:
    """What is to be filtered, how, and into which folder. `journal` may be None only without a judge."""

    data_sets: tuple[DataSet, ...]
    policy: Policy
    output: str
    journal: Path | None
    decisions: Decisions
    workers: int
    force: bool = False
    ask_unreadable: bool = False


@dataclass(frozen=True)
class _Prepared:
    """A data set whose rules were judged."""

    data_set: DataSet
    file: LocalFile
    spool: Path

    @property
    def name(self) -> str:
        return self.data_set.source.name

    def samples(self) -> Iterator[tuple[Line, tuple[Flag, ...]]]:
        """All lines that are not blank, with what the rules found."""
        return ((line, flags) for line, flags in with_flags(self.file.path, self.spool) if not line.is_blank)


def filter_data(request: Request, store: ObjectStore, stage: Stage) -> dict[str, Any]:
    """Filter, and return the report that was written.

    Raises:
        FilterError, DataError, StoreError: see their types; nothing was written to the output then.
    """
    folder.check_free(request.output, store, force=request.force)
    with tempfile.TemporaryDirectory(prefix="internvl-filter-") as scratch:
        prepared = _prepare(request, store, Path(scratch), stage)
        if request.policy.judge is None:
            return _write(request, prepared, None, None, store, stage)
        from internvl_trainer.curation.filter.judge import asking, journal

        with journal.opened(request.journal) as scores:
            if request.ask_unreadable:
                scores.reopen_unreadable()
            judge = request.policy.judge
            expected = asking.estimate(asking.still_open(_questions(request, prepared), scores), judge)
            scores.count_anew()
            with stage(f"asking {judge.model}", expected.questions, "questions") as advance:
                missing = asking.still_open(_questions(request, prepared), scores)
                usage = asking.ask_all(missing, scores, judge, lambda: advance(1))
            used = {"model": judge.model, "estimate": asdict(expected), "used": asdict(usage)}
            return _write(request, prepared, scores, used, store, stage)


def estimate(request: Request, store: ObjectStore, stage: Stage) -> dict[str, Any]:
    """What `filter_data` would do first: how many samples the rules flag, and what there is to ask. Writes nothing."""
    folder.check_free(request.output, store, force=request.force)
    with tempfile.TemporaryDirectory(prefix="internvl-filter-") as scratch:
        prepared = _prepare(request, store, Path(scratch), stage)
        found = {"samples": 0, "flagged": 0, "removed": 0}
        for each in prepared:
            for _, flags in each.samples():
                found["samples"] += 1
                found["flagged"] += bool(flags)
                found["removed"] += fate(flags) == Fate.REMOVED
        if request.policy.judge is None:
            return {"rules": found, "judge": None}
        from internvl_trainer.curation.filter.judge import asking, journal

        known = request.journal if request.journal is not None and request.journal.exists() else None
        with journal.opened(known) as scores:
            expected = asking.estimate(asking.still_open(_questions(request, prepared), scores), request.policy.judge)
        return {"rules": found, "judge": asdict(expected)}


def _prepare(request: Request, store: ObjectStore, scratch: Path, stage: Stage) -> list[_Prepared]:
    files = [local_file(each.source, store, scratch) for each in request.data_sets]
    prepared = [
        _Prepared(each, file, scratch / f"{each.source.number}.flags")
        for each, file in zip(request.data_sets, files, strict=True)
    ]
    total = sum(file.size for file in files)
    # A process takes a second to start; a small file is judged before.
    with (
        processes(min(request.workers, total // RANGE + 1)) as workers,
        stage("judging by rules", total, "bytes") as advance,
    ):
        for each in prepared:
            write_spool(each.file.path, each.name, request.policy, each.spool, workers, advance)
    return prepared


def _questions(request: Request, prepared: list[_Prepared]) -> "Iterator[Question]":
    """What a judge is asked about the samples that are not out already."""
    for each in prepared:
        for line, flags in each.samples():
            if _decision(request, each, line) is None and fate(flags) != Fate.REMOVED:
                record = parsed(line.text, each.name, line.number)
                if isinstance(record, Record):
                    yield from _asked(request, each, record)


def _asked(request: Request, each: _Prepared, record: Record) -> "Iterator[Question]":
    from internvl_trainer.curation.filter.judge.questions import questions

    judge = request.policy.judge
    return iter(()) if judge is None else questions(record, request.policy.source(each.name), judge)


def _decision(request: Request, each: _Prepared, line: Line) -> str | None:
    if request.decisions.is_empty:
        return None
    id_ = _fields(line).get("id") if request.decisions.need_ids else None
    return request.decisions.about(each.name, line.number, _sha256(line), None if id_ is None else str(id_))


def _write(
    request: Request,
    prepared: list[_Prepared],
    scores: "Journal | None",
    used: dict[str, Any] | None,
    store: ObjectStore,
    stage: Stage,
) -> dict[str, Any]:
    total = sum(each.file.size for each in prepared)
    with folder.staged(request.output, store) as place, stage("writing", total, "bytes") as advance:
        tallies = []
        with (place / folder.REMOVED).open("wb") as removed, (place / folder.REVIEW).open("wb") as review:
            for each in prepared:
                with (place / folder.file_of(each.name)).open("wb") as kept:
                    sinks = {Fate.KEPT: kept, Fate.REMOVED: removed, Fate.REVIEW: review}
                    tallies.append(_sort(request, each, scores, sinks, advance))
                each.file.check_unchanged(each.data_set.source)
        request.decisions.check_all_met()
        document = report.document(tallies, request.policy.model_dump(mode="json"), used)
        folder.write_json(place / folder.META, filtered_meta(request.data_sets))
        folder.write_json(place / folder.REPORT, document)
        (place / folder.REPORT_PAGE).write_text(report.markdown(document), encoding="utf-8")
    return document


def _sort(
    request: Request,
    each: _Prepared,
    scores: "Journal | None",
    sinks: Mapping[Fate, BinaryIO],
    advance: Callable[[int], None],
) -> report.Tally:
    """Write every line of one data set into the file where it belongs."""
    tally = report.Tally(each.name, each.data_set.source.annotation)
    for line, found in with_flags(each.file.path, each.spool):
        advance(len(line.text))
        if line.is_blank:
            tally.blank_lines += 1
            continue
        decision = _decision(request, each, line)
        flags = found
        if scores is not None and decision is None and fate(found) != Fate.REMOVED:
            flags += _judged(request, each, line, scores, tally)
        where = fate(flags, decision)
        tally.count(line.number, flags, where, decision)
        text = line.text if line.text.endswith(b"\n") else line.text + b"\n"
        sinks[where].write(text if where == Fate.KEPT else _row(each, line, flags, where, decision))
    return tally


def _judged(request: Request, each: _Prepared, line: Line, scores: "Journal", tally: report.Tally) -> tuple[Flag, ...]:
    """What the model's scores say about a sample. No score is no verdict: then a person decides."""
    from internvl_trainer.curation.filter.judge.outcomes import Score

    record, judge = parsed(line.text, each.name, line.number), request.policy.judge
    if judge is None or not isinstance(record, Record):
        return ()
    flags = []
    for question in _asked(request, each, record):
        outcome = scores.find(question.key)
        if outcome is None:
            raise FilterError(f"{each.name} line {line.number} has no score, though all were asked; run again")
        settings = judge.quality if question.check == QUALITY_SCORE else judge.repetition
        if not isinstance(outcome, Score):
            flags.append(Flag(question.check, None, settings.threshold, f"no score: {outcome.reason}", Action.REVIEW))
            continue
        tally.count_score(question.check, outcome.value)
        if outcome.value < settings.threshold:
            detail = outcome.reason or "no reason given"
            flags.append(Flag(question.check, outcome.value, settings.threshold, detail, settings.action))
    return tuple(flags)


def _row(each: _Prepared, line: Line, flags: tuple[Flag, ...], where: Fate, decision: str | None) -> bytes:
    """A line of removed.jsonl or review.jsonl: what was found, where the line is, and the line itself."""
    fields = _fields(line)
    row: dict[str, Any] = {} if where == Fate.REMOVED and decision is None else {"decision": decision}
    row |= {
        "source": each.name,
        "file": each.data_set.source.annotation,
        "line": line.number,
        "id": fields.get("id"),
        "sha256": _sha256(line),
        "findings": [flag._asdict() for flag in flags],
    }
    if not fields:
        row["text"] = line.text.strip().decode("utf-8", "backslashreplace")
        return json.dumps(row).encode() + b"\n"
    # The sample goes in as it is written, not as it would be written anew.
    return json.dumps(row, ensure_ascii=False).encode("utf-8", "backslashreplace")[:-1] + (
        b', "sample": ' + line.text.strip() + b"}\n"
    )


def _fields(line: Line) -> dict[str, Any]:
    """The object of a line; empty where it is none."""
    try:
        fields = json.loads(line.text.decode("utf-8"))
    except (ValueError, RecursionError):
        return {}
    return fields if isinstance(fields, dict) else {}


def _sha256(line: Line) -> str:
    return hashlib.sha256(line.text.strip()).hexdigest()
