"""Which worker's end stands for the node."""

import pytest

from internvl_trainer.contract.exit_codes import ExitCode
from internvl_trainer.launch.outcome import WorkerExit, exit_code

pytestmark = pytest.mark.unit


def ended(status: int, *, stopping: bool = False) -> WorkerExit:
    return WorkerExit(rank=0, status=status, stopping=stopping)


@pytest.mark.parametrize(
    ("exits", "code"),
    [
        ([ended(0), ended(0)], 0),
        ([ended(0), ended(11), ended(21)], ExitCode.NON_FINITE_LOSS),
        ([ended(-9), ended(21, stopping=True)], 137),
        ([ended(21), ended(2)], ExitCode.INVALID_CONFIG),
        ([ended(21), ended(21)], ExitCode.PEER_LOST),
        ([ended(21), ended(143, stopping=True)], ExitCode.PEER_LOST),
        ([ended(30, stopping=True), ended(-9, stopping=True)], ExitCode.INTERRUPTED),
        ([ended(0, stopping=True), ended(-15, stopping=True)], 143),
    ],
)
def test_outcome(exits: list[WorkerExit], code: int) -> None:
    assert exit_code(exits) == code
