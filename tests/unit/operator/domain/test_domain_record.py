"""What `plan` writes into the status, and what it makes of a status that is stale, lost or finished."""

from datetime import timedelta

import pytest

from internvl_operator.api.status import ConditionType, JobRef, Phase, StageState, StageStatus, TrainingStatus
from internvl_operator.domain.actions import DeleteJob, PostEvent, UpdateStatus
from internvl_operator.domain.plan import plan
from internvl_operator.domain.problems import SpecProblem
from internvl_operator.domain.state import (
    AttemptKey,
    ChildJob,
    JobPhase,
)
from tests.property.world import World, training_spec
from tests.unit.operator.domain.passes import observed

pytestmark = pytest.mark.unit


def test_a_spec_that_cannot_be_laid_out_is_not_accepted_and_names_the_field(world: World) -> None:
    world.spec = training_spec(1, parallelism={"tensor": 3})
    world.settle()

    accepted = world.status.condition(ConditionType.ACCEPTED)
    assert accepted
    assert (accepted.status, accepted.reason) == ("False", "InvalidParallelism")
    assert accepted.message.startswith("spec.parallelism.tensor: ")
    assert world.jobs == []
    assert world.status.phase is Phase.PENDING


def test_a_corrected_spec_is_accepted_and_goes_on(world: World) -> None:
    world.spec = training_spec(1, parallelism={"tensor": 3})
    world.settle()
    world.spec = training_spec(1)
    world.settle()

    assert world.status.is_true(ConditionType.ACCEPTED)
    assert world.current is not None


def test_jobs_of_a_run_whose_status_was_lost_are_not_doubled(world: World) -> None:
    world.settle()
    world.start()
    world.settle()
    world.stored = {}
    world.settle()

    assert not world.jobs[0].exists, "nobody knows what it started from: it is stopped"
    assert len(world.jobs) == 1, "and the next waits for its pods"
    world.reap()
    world.settle()
    world.end_indexing(JobPhase.SUCCEEDED)
    world.settle()
    assert [job.create.name for job in world.jobs] == ["demo-stage0-a1", "demo-stage0-a2"]


def test_progress_is_written_at_its_own_pace_and_everything_else_at_once(world: World) -> None:
    world.settle()
    world.start()
    world.settle()
    world.report(3)
    world.settle()
    assert world.status.progress
    assert (world.status.progress.steps, world.status.progress.loss) == ("3/10", "2.5")

    world.pass_time(2)
    world.report(4)
    assert world.think()[0] == []
    world.pass_time(3)
    world.report(5)
    assert [type(action) for action in world.think()[0]] == [UpdateStatus]

    world.act(*world.think())
    world.pass_time(1)
    world.report(6)
    world.fail(1)
    assert UpdateStatus in [type(action) for action in world.think()[0]]


def test_the_first_report_of_a_new_attempt_is_written_though_its_node_is_behind_in_time(world: World) -> None:
    world.settle()
    world.start()
    world.report(9)
    world.settle()
    world.fail(1)
    world.settle()
    world.start()
    world.settle()
    world.report(5)
    world.reports = {
        key: report.model_copy(update={"reported_at": world.now - timedelta(minutes=1)})
        for key, report in world.reports.items()
    }
    world.settle()

    assert world.status.progress
    assert (world.status.progress.attempt, world.status.progress.steps) == (2, "5/10")


def test_the_last_report_of_a_finished_run_is_kept_and_that_of_a_finished_stage_is_not(world: World) -> None:
    for stage in ("stage0", "stage1"):
        world.settle()
        assert world.status.current_stage == stage
        assert world.status.progress is None
        world.start()
        world.settle()
        world.report(9)
        world.succeed()
    world.settle()

    assert world.status.phase is Phase.SUCCEEDED
    assert world.status.progress
    assert (world.status.progress.stage, world.status.progress.steps) == ("stage1", "10/10")


def test_reports_of_a_dead_attempt_are_not_believed(world: World) -> None:
    world.settle()
    world.start()
    world.report(9)
    world.fail(1)
    world.settle()

    assert world.status.stage("stage0").attempt == 2
    assert world.status.progress is None


def test_old_finished_jobs_are_cleared_away_but_the_newest_stay_for_their_logs(world: World) -> None:
    world.spec = training_spec(1, retry_limit=10)
    for _ in range(6):
        world.settle()
        world.fail(1)
    world.settle()

    kept = [job.create.attempt for job in world.jobs if job.exists]
    assert kept == [4, 5, 6, 7]


def test_a_stray_job_of_an_older_attempt_is_deleted_with_its_uid(world: World) -> None:
    status = TrainingStatus(
        stages=(
            StageStatus(
                name="stage0", attempt=2, closed_attempt=1, state=StageState.RUNNING,
                job_ref=JobRef(api_version="kubeflow.org/v1", kind="PyTorchJob", name="demo-stage0-a2", uid="u2"),
            ),
        )
    )  # fmt: skip
    jobs = tuple(
        ChildJob(f"demo-stage0-a{number}", f"u{number}", "stage0", number, JobPhase.RUNNING, world.now)
        for number in (1, 2)
    )

    actions = plan(world.spec, observed(world, status=status, jobs=jobs), world.now)

    assert [action for action in actions if isinstance(action, DeleteJob)] == [
        DeleteJob("demo-stage0-a1", "u1", "stage0", 1)
    ]


def test_every_failure_is_an_event_once(world: World) -> None:
    world.settle()
    world.fail(1)
    actions, seen = world.think()
    warnings = [action for action in actions if isinstance(action, PostEvent) and action.warning]
    assert [(event.reason, "crashed with exit code 1" in event.message) for event in warnings] == [
        ("TrainerFailed", True)
    ]
    world.act(actions, seen)

    assert not [action for action in world.think()[0] if isinstance(action, PostEvent) and action.warning]


def test_the_status_survives_its_round_trip_through_the_api_server(world: World) -> None:
    world.now += timedelta(microseconds=123456)
    world.settle()
    world.start()
    world.report(3)
    world.fail(1)
    world.settle()

    assert TrainingStatus.model_validate(world.status.to_dict()) == world.status
    assert not any(isinstance(action, UpdateStatus) for action in world.think()[0])


def test_a_problem_reads_as_field_and_text() -> None:
    assert str(SpecProblem("spec.image.ref", "no image is named")) == "spec.image.ref: no image is named"


def test_keys_of_attempts_are_told_apart_by_stage() -> None:
    assert AttemptKey("stage1", 1) != AttemptKey("stage2", 1)
