"""Every error that training stops with says what the operator is to make of it."""

from pathlib import Path

import pytest
from torch.distributed import DistBackendError

from internvl_trainer.checkpoint.errors import CheckpointConflictError, DataPositionError
from internvl_trainer.contract.exit_codes import ExitCode, is_retryable
from internvl_trainer.data.errors import MetaError
from internvl_trainer.engine.errors import LossSpikeError, NonFiniteLossError, PeerLostError
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
        (NonFiniteLossError(7, float("nan"), 1.0, {14: float("nan")}, None), ExitCode.NON_FINITE_LOSS),
        (LossSpikeError(7, 9.0, 6.0, {14: 9.0}), ExitCode.NON_FINITE_LOSS),
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


def test_a_loss_that_is_no_number_names_packs_and_cause_and_remedies_that_a_user_has() -> None:
    shares = {12: 0.1, 14: float("nan"), 15: float("inf"), 16: 0.2, 18: float("nan")}
    told = str(NonFiniteLossError(7, float("nan"), 1.0, shares, "parameter x.weight holds a value that is not finite"))
    assert told.startswith("step 7: loss nan, gradient norm 1.0; no parameter was changed. Cause: parameter x.weight ")
    assert "Packs whose loss is not finite: 14-15, 18. Look at the data of these packs" in told
    assert "a new run with a lower peak learning rate, or one whose spec.weights names the manifest" in told


def test_a_gradient_that_is_no_number_under_a_finite_loss_may_come_from_any_pack_of_the_step() -> None:
    told = str(NonFiniteLossError(7, 2.5, float("inf"), {9: 0.1, 8: 0.2, 10: 0.3}, None))
    assert "The loss of each pack is finite; the step's packs: 8-10." in told
    assert "points at the machine" in told


def test_a_spike_names_its_limit_and_the_packs_with_the_largest_shares() -> None:
    told = str(LossSpikeError(7, 9.0, 6.0, {pack: float(pack) for pack in range(8)}))
    assert "loss 9 is above 6, optimization.spike_limit times the mean" in told
    assert "Packs with the largest shares of it: 7 (7), 6 (6), 5 (5), 4 (4), 3 (3)." in told


@pytest.mark.parametrize("content", [None, "{", '{"format": "internvl-job/v2"}'])
def test_a_config_that_cannot_be_read_is_an_invalid_config(tmp_path: Path, content: str | None) -> None:
    config = tmp_path / "job.json"
    if content is not None:
        config.write_text(content)
    assert run(config) == ExitCode.INVALID_CONFIG
