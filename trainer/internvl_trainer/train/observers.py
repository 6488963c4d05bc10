"""Who is told about steps and checkpoints: nobody on most ranks; the log or a terminal, and the operator, on one."""

import logging
import sys
from datetime import UTC, datetime

from internvl_trainer.checkpoint.saving import Saved
from internvl_trainer.checkpoint.state import TrainState
from internvl_trainer.contract.job import JobConfig
from internvl_trainer.contract.progress import CheckpointProgress, ProgressReport
from internvl_trainer.train import live, progress
from internvl_trainer.train.report import ProgressReporter

logger = logging.getLogger(__name__)


class Silent:
    """The observer of the ranks that report nothing."""

    def stepped(self, state: TrainState) -> None:
        """Nothing."""

    def saved(self, saved: Saved) -> None:
        """Nothing."""


class Reporting:
    """Logs a line per step, or hands it to the launcher's terminal (`to_terminal`), and keeps the operator informed."""

    def __init__(self, job: JobConfig, reporter: ProgressReporter, *, to_terminal: bool = False) -> None:
        self._job = job
        self._reporter = reporter
        self._to_terminal = to_terminal
        self._checkpoint: CheckpointProgress | None = None
        self._state: TrainState | None = None

    def stepped(self, state: TrainState) -> None:
        """An optimizer step is done."""
        self._state = state
        status = self._status(state)
        if self._to_terminal:
            sys.stdout.write(live.record(status))
            sys.stdout.flush()
        else:
            logger.info(progress.line(status, state.metrics[-1]))
        self._reporter.submit(status)

    def saved(self, saved: Saved) -> None:
        """A checkpoint is committed: some steps ago, or just now."""
        self._checkpoint = CheckpointProgress(step=saved.step, manifest=saved.ref)
        # Where no step has been trained since the start there is nothing to tell besides.
        if self._state is not None:
            self._reporter.submit(self._status(self._state))

    def _status(self, state: TrainState) -> ProgressReport:
        return progress.report(self._job, state.metrics, datetime.now(UTC), self._checkpoint)
