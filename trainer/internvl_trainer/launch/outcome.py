"""Which exit code a launcher ends with, from what its workers ended with: pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from internvl_trainer.contract.exit_codes import ExitCode


@dataclass(frozen=True)
class WorkerExit:
    """How one worker ended.

    `status` is as subprocess gives it: 0..255, or minus the signal's number. `stopping` says that the launcher had
    told the workers to stop before this one ended.
    """

    rank: int
    status: int
    stopping: bool

    @property
    def code(self) -> int:
        """The status as a shell and a kubelet give it: 128 + n for death by signal n."""
        return self.status if self.status >= 0 else 128 - self.status


def exit_code(exits: Sequence[WorkerExit]) -> int:
    """The code of the first worker that failed, in the order of their ends.

    A worker that only lost its peers tells less than the one that caused it: its code counts where no other worker
    failed by itself.
    """
    failed = [each for each in exits if each.code]
    if not failed:
        return ExitCode.SUCCESS
    by_themselves = [each for each in failed if not each.stopping] or failed
    causes = [each for each in by_themselves if each.code != ExitCode.PEER_LOST]
    return (causes or by_themselves)[0].code
