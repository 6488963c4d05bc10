"""SIGTERM as a wish that the loop can ask about between steps."""

import signal
from types import FrameType
from typing import ClassVar

from internvl_trainer.contract.exit_codes import ExitCode


class InterruptedTrainingError(Exception):
    """SIGTERM arrived on some rank; all ranks have saved the last whole step and stop."""

    exit_code: ClassVar[ExitCode] = ExitCode.INTERRUPTED

    def __init__(self, step: int, checkpoint: str) -> None:
        super().__init__(f"stopped by SIGTERM after step {step}; committed {checkpoint}")


class StopWish:
    """Whether this process has been asked to stop. Made in the main thread, early: it takes SIGTERM over."""

    def __init__(self) -> None:
        self.felt = False
        signal.signal(signal.SIGTERM, self._feel)

    def _feel(self, number: int, frame: FrameType | None) -> None:
        self.felt = True
