"""What a check has found so far: counters in memory, samples on disk, bad ones in a file as they come."""

from dataclasses import dataclass
from io import FileIO
from pathlib import Path

import numpy as np

from internvl_trainer.curation.check.document import CheckedSource, CheckReport, Fault
from internvl_trainer.curation.check.duplicates import find_duplicates
from internvl_trainer.curation.check.inspection import Inspected
from internvl_trainer.curation.check.spool import Spool
from internvl_trainer.curation.check.tally import FIRST, Tally, is_within
from internvl_trainer.curation.endings import writing
from internvl_trainer.curation.estimate import Fill, estimate_fill
from internvl_trainer.curation.report.count import count
from internvl_trainer.curation.report.document import KINDS
from internvl_trainer.data.errors import MetaError
from internvl_trainer.data.index.part import Measuring
from internvl_trainer.data.packing import PackLimits
from internvl_trainer.data.sources import Source

REPEATED_ID = "id used before"
"""Kind of a warning."""


@dataclass(frozen=True)
class Plan:
    """What to check, and how.

    `global_batch` packs make an optimizer step, shared by `replicas`; None where no job says so.
    """

    sources: tuple[Source, ...]
    measuring: Measuring
    pixels: bool
    workers: int
    global_batch: int | None = None
    replicas: int = 1


class Findings:
    """Takes what is found, part by part in the order of the data, and makes the report of it.

    Args:
        folder: for 32 bytes a sample until the report is made.
        bad_file: gets a line for each bad sample; replaced if it is there.
    """

    def __init__(self, plan: Plan, folder: Path, bad_file: Path | None) -> None:
        self._plan = plan
        self._spools = [Spool(folder, str(number)) for number in range(len(plan.sources))]
        self._bad_file = bad_file
        self._bad_lines = _opened(bad_file) if bad_file else None
        self._bad, self._warnings = Tally(), Tally()
        self.samples = self.tiles_decoded = 0

    @property
    def bad(self) -> int:
        """Bad samples so far."""
        return self._bad.total

    def add(self, source: int, inspected: Inspected) -> None:
        """Take what was found in the next part of a data set, given by its place in the plan."""
        self._spools[source].add(inspected.rows, inspected.ids)
        self._bad.add(inspected.bad)
        self._warnings.add(inspected.warnings)
        self.samples += len(inspected.rows)
        self.tiles_decoded += inspected.tiles_decoded
        if self._bad_file and self._bad_lines and inspected.bad:
            with writing(self._bad_file, "--bad"):
                _write(self._bad_lines, b"".join(fault.to_line() for fault in inspected.bad))

    def close(self) -> None:
        """Close what is open."""
        for spool in self._spools:
            spool.close()
        if self._bad_lines:
            self._bad_lines.close()

    def report(self, *, complete: bool, seconds: float) -> CheckReport:
        """What was found in everything that was added; nothing can be added afterwards.

        Args:
            complete: whether that is all there is; without all, an estimate of epochs would mean nothing.
        """
        plan, data = self._plan, self._plan.measuring.data
        rows, sources = [], []
        for source, spool in zip(plan.sources, self._spools, strict=True):
            of_source, ids = spool.finish()
            self._add_repeated_ids(source, of_source, ids)
            rows.append(of_source)
            sources.append(self._checked(source, of_source))
        reached = [source for source in sources if complete or source.samples]
        problems = [problem for source in reached if (problem := _problem(source, data.max_bad_fraction))]
        fill, unpackable = self._fill(rows) if complete else (None, None)
        return CheckReport(
            data=data.meta or "the mixture",
            model=plan.measuring.model.name,
            complete=complete,
            pixels=plan.pixels,
            max_bad_fraction=data.max_bad_fraction,
            problems=problems + ([unpackable] if unpackable else []),
            sources=reached,
            first_bad=self._bad.first,
            first_warnings=self._warnings.first,
            bad_file=str(self._bad_file) if self._bad_file else None,
            tiles_decoded=self.tiles_decoded,
            seconds=round(seconds, 3),
            workers=plan.workers,
            estimate=fill,
        )

    def _checked(self, source: Source, rows: np.ndarray) -> CheckedSource:
        data = self._plan.measuring.data
        counts = count(rows, PackLimits(data.pack_tokens, data.pack_tiles))
        bad = self._bad.of(source.name)
        return CheckedSource(
            name=source.name,
            annotation=source.annotation,
            samples=len(rows),
            bad=bad,
            warnings=self._warnings.of(source.name),
            kinds=dict(zip(KINDS, counts.samples.tolist(), strict=True)),
            tokens=int(counts.tokens.sum()),
            tiles=int(counts.tiles.sum()),
            within_budget=is_within(sum(bad.values()), len(rows), data.max_bad_fraction),
        )

    def _add_repeated_ids(self, source: Source, rows: np.ndarray, ids: np.ndarray) -> None:
        found = find_duplicates(ids, most=FIRST)
        first = [
            Fault(
                source=source.name,
                file=source.annotation,
                line=int(rows[row]["line"]),
                id=None,
                reason=REPEATED_ID,
                detail=f"has the id of line {rows[first_row]['line']}; messages cannot tell them apart",
            )
            for row, first_row in found.first
        ]
        self._warnings.add_unseen(source.name, REPEATED_ID, found.samples, first)

    def _fill(self, rows: list[np.ndarray]) -> tuple[Fill | None, str | None]:
        """The estimate of an epoch, or why there can be none."""
        plan = self._plan
        try:
            fill = estimate_fill(
                rows, plan.sources, plan.measuring.data, global_batch=plan.global_batch, replicas=plan.replicas
            )
        except MetaError as error:
            return None, str(error)
        return fill, None


def _opened(bad_file: Path) -> FileIO:
    with writing(bad_file, "--bad"):
        # Without a buffer, which closing the file would try to write once more after the disk was full.
        return FileIO(bad_file, "wb")


def _write(file: FileIO, payload: bytes) -> None:
    left = memoryview(payload)
    while left:
        left = left[file.write(left) :]


def _problem(source: CheckedSource, max_bad_fraction: float) -> str | None:
    if source.within_budget:
        return None
    if not source.samples:
        return f"data set {source.name!r} holds no sample"
    return (
        f"data set {source.name!r}: {source.bad_samples:,} of {source.samples:,} samples are bad, limit "
        f"{100 * max_bad_fraction:.4g} %; mend or remove them, or raise max_bad_fraction"
    )
