"""Every error that training stops with says what the operator is to make of it."""

from pathlib import Path

import pytest
from torch.distributed import DistBackendError

from internvl_trainer.checkpoint.errors import CheckpointConflictError, DataPositionError
from internvl_trainer.contract.exit_codes import ExitCode, is_retryable
from internvl_trainer.data.errors import MetaError
from internvl_trainer.engine.errors import NonFiniteLossError, PeerLostError
from internvl_trainer.model.errors import VisualTokenMismatchError
from internvl_trainer.storage import StoreUnavailableError
from internvl_trainer.train.interrupt import InterruptedTrainingError
from internvl_trainer.train.main import exit_code_of, run

pytestmark = pytest.mark.unit

GLOO = "[../third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer [10.0.0.7]:2203"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (MetaError("no data sets"), ExitCode.INVALID_CONFIG),
        (VisualTokenMismatchError(3, ("a",), 17, 1, 16), ExitCode.INVALID_CONFIG),
        (NonFiniteLossError(7, float("nan"), 1.0, (14, 15)), ExitCode.NON_FINITE_LOSS),
        (CheckpointConflictError("committed already"), ExitCode.CHECKPOINT_CONFLICT),
        (DataPositionError("another batch"), ExitCode.INVALID_CONFIG),
        (StoreUnavailableError("no answer"), ExitCode.STORE_UNAVAILABLE),
        (PeerLostError("gone"), ExitCode.PEER_LOST),
        (RuntimeError(GLOO), ExitCode.PEER_LOST),
        (DistBackendError("NCCL error"), ExitCode.PEER_LOST),
        (InterruptedTrainingError(3, "s3://b/m"), ExitCode.INTERRUPTED),
        (RuntimeError("shape mismatch"), None),
        (KeyError("a bug"), None),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
def test_error(error: Exception, code: ExitCode | None) -> None:
    assert exit_code_of(error) == code


def test_an_error_that_asks_for_a_new_attempt_gets_one() -> None:
    assert is_retryable(CheckpointConflictError.exit_code)


def test_a_loss_that_is_no_number_is_told_with_remedies_that_a_user_has() -> None:
    told = str(NonFiniteLossError(7, float("nan"), 1.0, (14, 15)))
    assert "Packs of this rank: 14, 15. Look at the data of these packs" in told
    assert "a new run with a lower peak learning rate, or one whose spec.weights names the manifest" in told


@pytest.mark.parametrize("content", [None, "{", '{"format": "internvl-job/v2"}'])
def test_a_config_that_cannot_be_read_is_an_invalid_config(tmp_path: Path, content: str | None) -> None:
    config = tmp_path / "job.json"
    if content is not None:
        config.write_text(content)
    assert run(config) == ExitCode.INVALID_CONFIG
