"""The parts of the status that people read: conditions, progress and durations."""

from datetime import UTC, datetime, timedelta

import pytest

from internvl_operator.api.reasons import MEANINGS, Reason
from internvl_operator.api.status import ConditionType, StageStatus
from internvl_operator.domain import conditions, progress
from internvl_trainer.contract.manifest import ManifestRef
from internvl_trainer.contract.progress import CheckpointProgress, ProgressReport
from tests.property.world import DIGEST

pytestmark = pytest.mark.unit

NOW = datetime(2026, 1, 1, tzinfo=UTC)
REPORT = ProgressReport(
    run_uid="u", stage="stage1", attempt=1, step=42, total_steps=120, loss=1.87312, learning_rate=0.0002,
    tokens_per_second=41234.6, tiles_per_second=12.34, eta_seconds=7500.2, reported_at=NOW,
    checkpoint=CheckpointProgress(step=40, manifest=ManifestRef(uri="s3://runs/m", sha256=DIGEST)),
)  # fmt: skip


def test_the_transition_time_moves_only_with_the_status() -> None:
    first = conditions.put((), ConditionType.PROGRESSING, "True", Reason.STAGE_STARTING, "", generation=1, now=NOW)
    later = NOW + timedelta(minutes=5)
    second = conditions.put(first, ConditionType.PROGRESSING, "True", Reason.STAGE_RUNNING, "", generation=2, now=later)
    third = conditions.put(second, ConditionType.PROGRESSING, "False", Reason.SUSPENDED, "", generation=2, now=later)

    assert [c[0].last_transition_time for c in (first, second, third)] == [NOW, NOW, later]
    assert [c[0].observed_generation for c in (first, second, third)] == [1, 2, 2]


def test_conditions_keep_one_order_whatever_is_set_first() -> None:
    result = conditions.put((), ConditionType.FAILED, "True", Reason.USER_ERROR, "", generation=1, now=NOW)
    result = conditions.put(result, ConditionType.ACCEPTED, "True", Reason.SPEC_VALID, "", generation=1, now=NOW)

    assert [condition.type for condition in result] == [ConditionType.ACCEPTED, ConditionType.FAILED]


def test_a_report_becomes_what_kubectl_shows() -> None:
    folded = progress.fold_run(None, REPORT)

    assert folded is not None
    assert folded.to_dict() == {
        "stage": "stage1", "attempt": 1, "step": 42, "totalSteps": 120, "percent": 35, "steps": "42/120",
        "loss": "1.873", "learningRate": "0.0002", "tokensPerSecond": 41235, "tilesPerSecond": "12.3",
        "etaSeconds": 7500, "eta": "2h05m", "lastReportTime": "2026-01-01T00:00:00Z",
    }  # fmt: skip


def test_an_older_report_changes_nothing() -> None:
    folded = progress.fold_run(None, REPORT)
    older = REPORT.model_copy(update={"step": 41, "reported_at": NOW - timedelta(seconds=9)})

    assert progress.fold_run(folded, older) is folded


@pytest.mark.parametrize("newer", [{"attempt": 2}, {"stage": "stage2"}])
def test_a_new_attempt_is_believed_though_its_node_is_behind_in_time(newer: dict[str, object]) -> None:
    folded = progress.fold_run(None, REPORT)
    behind = REPORT.model_copy(update={"step": 41, "reported_at": NOW - timedelta(seconds=9), **newer})

    assert progress.fold_run(folded, behind) == progress.fold_run(None, behind)


def test_a_straggler_of_an_older_attempt_changes_nothing() -> None:
    folded = progress.fold_run(None, REPORT.model_copy(update={"attempt": 2}))
    straggler = REPORT.model_copy(update={"reported_at": NOW + timedelta(seconds=9)})

    assert progress.fold_run(folded, straggler) is folded


def test_the_first_loss_of_a_stage_is_kept_and_the_last_moves_on() -> None:
    stage = progress.fold_stage(StageStatus(name="stage1", attempt=1), REPORT)
    stage = progress.fold_stage(stage, REPORT.model_copy(update={"loss": 1.5, "step": 43, "checkpoint": None}))

    assert (stage.first_loss, stage.last_loss, stage.steps) == ("1.873", "1.5", 43)
    assert stage.last_checkpoint
    assert (stage.last_checkpoint.step, stage.last_checkpoint.verified) == (40, False)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (45.4, "45s"), (59.6, "1m00s"), (750, "12m30s"), (7500, "2h05m"), (273_600, "3d04h")],
)
def test_durations_are_told_in_two_units(seconds: float, text: str) -> None:
    assert progress.duration(seconds) == text


def test_every_reason_is_explained() -> None:
    assert set(MEANINGS) == set(Reason)
    assert all(meaning.happened.endswith(".") for meaning in MEANINGS.values())
