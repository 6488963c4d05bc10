"""`plan` told as stories: what the operator does, pass after pass, in a small world."""

import pytest

from internvl_operator.api.reasons import Reason
from internvl_operator.api.status import ConditionType, Phase, StageState
from internvl_operator.domain.actions import CreateJob, DeleteJob, PostEvent, Requeue, UpdateStatus
from internvl_operator.domain.plan import plan
from internvl_operator.domain.state import (
    Invalid,
    SourceInvalid,
    SourceReady,
    SourceWaiting,
    Unavailable,
)
from internvl_trainer.contract.base import Component
from internvl_trainer.contract.exit_codes import ExitCode
from internvl_trainer.contract.manifest import ManifestRef
from tests.property.world import DIGEST, RUN, World, training_spec
from tests.unit.operator.domain.passes import observed, reason

pytestmark = pytest.mark.unit

VISION = {"vision": {"from": {"trainingRef": {"name": "donor", "stage": "stage1-5"}}}}


# ---- the straight way ----------------------------------------------------------------------------------------------


def test_an_attempt_is_on_record_before_its_job_is_created(world: World) -> None:
    actions, _ = world.think()

    kinds = [type(action) for action in actions]
    assert kinds.index(UpdateStatus) < kinds.index(CreateJob)
    recorded = next(action.status for action in actions if isinstance(action, UpdateStatus)).stage("stage0")
    created = next(action for action in actions if isinstance(action, CreateJob))
    assert (recorded.attempt, recorded.job_ref and recorded.job_ref.name) == (1, "demo-stage0-a1")
    assert (created.name, created.attempt) == ("demo-stage0-a1", 1)


def test_an_operator_killed_between_record_and_creation_creates_the_same_job_later(world: World) -> None:
    world.act(*world.think(), crash_after=1)
    assert world.jobs == []

    world.settle()

    assert [job.create.name for job in world.jobs] == ["demo-stage0-a1"]


def test_two_stages_follow_each_other_and_the_run_succeeds(world: World) -> None:
    world.settle()
    assert (world.status.phase, reason(world)) == (Phase.PENDING, "StageStarting")
    world.start()
    world.settle()
    assert (world.status.phase, reason(world), world.status.stages_summary) == (Phase.RUNNING, "StageRunning", "0/2")
    world.succeed()
    world.settle()
    assert (world.status.current_stage, reason(world, ConditionType.CHECKPOINT_READY)) == ("stage1", "ManifestVerified")
    world.succeed()
    world.settle()

    status = world.status
    assert (status.phase, status.stages_summary, status.attempt) == (Phase.SUCCEEDED, "2/2", 1)
    assert status.is_true(ConditionType.SUCCEEDED)
    assert reason(world) == "Finished"
    first, second = status.stages
    assert (first.first_loss, first.last_loss, first.steps) == ("3", "1", 10)
    assert [offer.component for offer in first.published] == [Component.VISION]
    assert {origin.stage for origin in second.initialised_from} == {"stage0"}


def test_a_finished_run_asks_for_nothing_more(world: World) -> None:
    for _ in range(2):
        world.settle()
        world.succeed()
    world.settle()

    assert world.think()[0] == []


def test_a_run_being_deleted_is_left_to_the_garbage_collector(world: World) -> None:
    assert plan(world.spec, observed(world, deleting=True), world.now) == []


# ---- the gate ------------------------------------------------------------------------------------------------------


def test_a_succeeded_job_without_its_manifest_keeps_the_next_stage_waiting(world: World) -> None:
    world.settle()
    world.succeed(manifest=False)
    world.settle()

    assert world.status.stage("stage0").state is StageState.HANDOFF
    assert reason(world) == reason(world, ConditionType.CHECKPOINT_READY) == "WaitingForCheckpoint"
    assert any(isinstance(action, Requeue) for action in world.think()[0])

    world.commit(world.jobs[0])
    world.settle()
    assert world.current
    assert world.current.create.name == "demo-stage1-a1"


def test_a_manifest_that_never_appears_fails_the_run_and_says_what_is_missing(world: World) -> None:
    world.settle()
    world.succeed(manifest=False)
    world.settle()
    world.pass_time(301)
    world.settle()

    failed = world.status.condition(ConditionType.FAILED)
    assert failed
    assert failed.reason == "HandoffInvalid"
    missing = f"the final manifest of step 10 by attempt 1 below s3://runs/demo/{RUN.uid}/stage0/"
    assert failed.message == f"stage stage0: the job succeeded, but after 301 s {missing} does not exist"
    assert world.status.stage("stage0").state is StageState.FAILED
    assert len(world.jobs) == 1


def test_what_a_replaced_attempt_commits_late_does_not_end_the_stage(world: World) -> None:
    world.settle()
    world.fail(1)
    world.settle()
    world.commit(world.jobs[0])
    world.start()
    world.settle()
    assert world.status.stage("stage0").state is StageState.RUNNING, "attempt 2 is at work, whatever attempt 1 leaves"

    world.succeed(manifest=False)
    world.settle()
    progressing = world.status.condition(ConditionType.PROGRESSING)
    assert progressing
    assert progressing.reason == "WaitingForCheckpoint"
    assert "waiting for the final manifest of step 10 by attempt 2" in progressing.message

    world.commit(world.jobs[1])
    world.settle()
    done = world.status.stage("stage0")
    assert done.last_checkpoint
    assert (done.state, done.last_checkpoint.uri) == (StageState.SUCCEEDED, world.manifests["stage0", 2].uri)
    assert world.current
    assert world.current.create.config.init[Component.VISION] == world.manifests["stage0", 2]


def test_a_store_that_is_down_fails_nothing_however_long_it_takes(world: World) -> None:
    world.settle()
    world.succeed(manifest=False)
    world._gate = lambda stage: Unavailable("connection refused")  # type: ignore[method-assign]
    world.settle()
    world.pass_time(100_000)
    world.settle()

    assert reason(world) == "StoreUnavailable"
    checkpoint = world.status.condition(ConditionType.CHECKPOINT_READY)
    assert checkpoint
    assert checkpoint.status == "Unknown"


def test_a_damaged_checkpoint_fails_the_run_with_the_object_in_the_text(world: World) -> None:
    world.settle()
    world.succeed()
    world._gate = lambda stage: Invalid(("object __0_1.distcp has 7 bytes, the manifest says 9",))  # type: ignore[method-assign]
    world.settle()

    assert world.status.phase is Phase.FAILED
    assert reason(world, ConditionType.CHECKPOINT_READY) == "HandoffInvalid"
    failed = world.status.condition(ConditionType.FAILED)
    assert failed
    assert "__0_1.distcp" in failed.message


# ---- failures ------------------------------------------------------------------------------------------------------


def test_a_crash_is_followed_by_the_next_attempt_with_the_same_origins(world: World) -> None:
    world.settle()
    world.succeed()
    world.settle()
    world.fail(1)
    world.settle()

    stage = world.status.stage("stage1")
    assert (stage.attempt, stage.closed_attempt, stage.restarts.failures) == (2, 1, 1)
    assert world.jobs[-1].create.config.init == world.jobs[-2].create.config.init
    (failure,) = world.status.failures
    assert (failure.stage, failure.attempt, failure.exit_code, failure.reason) == ("stage1", 1, 1, "TrainerFailed")


def test_no_attempt_begins_while_a_pod_of_the_last_one_lives(world: World) -> None:
    world.settle()
    world.fail(137, linger=True)
    world.settle()

    assert len(world.jobs) == 1
    assert reason(world) == "WaitingForPods"
    assert "demo-stage0-a1-worker-0" in world.status.condition(ConditionType.PROGRESSING).message  # type: ignore[union-attr]
    assert world.status.stage("stage0").is_open, "an attempt whose pods live is not over"

    world.reap()
    world.settle()
    assert [job.create.name for job in world.jobs] == ["demo-stage0-a1", "demo-stage0-a2"]


def test_the_retry_limit_ends_the_run_with_the_last_cause(world: World) -> None:
    for _ in range(3):
        world.settle()
        world.fail(1)
    world.settle()

    failed = world.status.condition(ConditionType.FAILED)
    assert failed
    assert failed.reason == "RetryLimitExceeded"
    assert "3 failures in 3 attempts, retry.limit is 2" in failed.message
    assert "crashed with exit code 1" in failed.message
    assert world.current is None


def test_an_error_of_the_user_is_not_tried_again(world: World) -> None:
    world.settle()
    world.fail(ExitCode.INVALID_CONFIG)
    world.settle()

    assert (world.status.phase, len(world.jobs)) == (Phase.FAILED, 1)
    assert reason(world, ConditionType.FAILED) == "UserError"


def test_preemption_is_free(world: World) -> None:
    for _ in range(5):
        world.settle()
        world.fail(ExitCode.INTERRUPTED)
    world.settle()

    stage = world.status.stage("stage0")
    assert (stage.attempt, stage.restarts.failures, stage.restarts.interruptions) == (6, 0, 5)
    assert world.status.failures == ()
    assert stage.last_failure
    assert stage.last_failure.reason == "Interrupted"


def test_between_two_attempts_there_is_a_pause(world: World) -> None:
    backoff = {"retry": {"limit": 5, "backoffSeconds": {"initial": 10, "max": 15}}}
    world.spec = training_spec(1, runPolicy=backoff)
    world.settle()
    for pause in (10, 15):
        world.fail(1)
        world.settle()
        assert world.status.phase is Phase.RESTARTING
        assert world.think()[0] == [Requeue(pause)]
        world.pass_time(pause - 1)
        world.settle()
        assert world.current is None
        world.pass_time(1)
        world.settle()
        assert world.current is not None


def test_an_attempt_past_its_deadline_is_stopped_and_counts(world: World) -> None:
    world.spec = training_spec(1, runPolicy={"attemptTimeoutSeconds": 60, "retry": {"backoffSeconds": {"initial": 0}}})
    world.settle()
    world.start()
    world.settle()
    assert Requeue(60) in world.think()[0]
    world.pass_time(60)
    world.settle()

    assert not world.jobs[0].exists
    assert world.status.stage("stage0").stopping is Reason.DEADLINE_EXCEEDED
    world.reap()
    world.settle()
    assert [failure.reason for failure in world.status.failures] == ["DeadlineExceeded"]
    assert world.status.stage("stage0").attempt == 2


def test_a_job_that_the_api_server_refuses_is_asked_for_again(world: World) -> None:
    world.act(*world.think(), crash_after=1)

    actions = plan(world.spec, observed(world, rejection="exceeded quota: gpus"), world.now)

    (status,) = [action.status for action in actions if isinstance(action, UpdateStatus)]
    progressing = status.condition(ConditionType.PROGRESSING)
    assert progressing
    assert (progressing.status, progressing.reason, progressing.message) == (
        "False", "JobRejected", "exceeded quota: gpus",
    )  # fmt: skip
    assert any(isinstance(action, CreateJob) for action in actions)


# ---- suspend -------------------------------------------------------------------------------------------------------


def test_suspending_stops_the_job_and_resuming_opens_the_next_attempt(world: World) -> None:
    world.settle()
    world.start()
    world.settle()
    world.suspend(True)

    actions, _ = world.think()
    kinds = [type(action) for action in actions]
    assert kinds.index(UpdateStatus) < kinds.index(DeleteJob), "why a job is deleted is on record before it is"

    world.settle()
    assert reason(world) == "WaitingForPods"
    world.reap()
    world.settle()
    assert (world.status.phase, reason(world)) == (Phase.SUSPENDED, "Suspended")
    stage = world.status.stage("stage0")
    assert (stage.state, stage.restarts.failures, stage.restarts.interruptions) == (StageState.PENDING, 0, 1)

    world.suspend(False)
    world.settle()
    assert [job.create.name for job in world.jobs] == ["demo-stage0-a1", "demo-stage0-a2"]


def test_a_run_applied_as_suspended_creates_nothing(world: World) -> None:
    world.suspend(True)
    world.settle()

    assert (world.jobs, world.status.phase) == ([], Phase.SUSPENDED)


def test_a_run_suspended_between_record_and_creation_begins_with_the_next_attempt(world: World) -> None:
    world.act(*world.think(), crash_after=1)
    world.suspend(True)
    world.settle()
    assert world.jobs == []
    world.suspend(False)
    world.settle()

    assert [job.create.name for job in world.jobs] == ["demo-stage0-a2"]


# ---- where the first stage starts from -----------------------------------------------------------------------------


def test_the_first_stage_waits_for_the_vision_encoder_of_another_run() -> None:
    spec = training_spec(1, **VISION)
    world = World(spec)
    waiting = {
        Component.VISION: SourceWaiting(Reason.WAITING_FOR_VISION, "stage 'stage1-5' of team-a/donor is Running")
    }

    actions = plan(spec, observed(world, sources=waiting), world.now)

    (update,) = [action for action in actions if isinstance(action, UpdateStatus)]
    assert update.status.stage("stage0").state is StageState.WAITING_FOR_VISION
    assert update.status.phase is Phase.WAITING
    assert not any(isinstance(action, CreateJob) for action in actions)


def test_it_starts_from_what_was_published_and_remembers_whose_it_is() -> None:
    spec = training_spec(1, **VISION)
    world = World(spec)
    ref = ManifestRef(uri="s3://runs/donor/vision.json", sha256=DIGEST)
    ready = {Component.VISION: SourceReady(ref, run="team-a/donor", stage="stage1-5")}

    actions = plan(spec, observed(world, sources=ready), world.now)

    (create,) = [action for action in actions if isinstance(action, CreateJob)]
    assert create.config.init == {Component.VISION: ref}
    (update,) = [action for action in actions if isinstance(action, UpdateStatus)]
    (origin,) = update.status.stage("stage0").initialised_from
    assert (origin.run, origin.stage, origin.sha256) == ("team-a/donor", "stage1-5", DIGEST)


def test_a_source_that_can_never_be_right_fails_the_run_at_once() -> None:
    spec = training_spec(1, **VISION)
    world = World(spec)
    answer = SourceInvalid(Reason.VISION_SOURCE_FAILED, "team-a/donor failed: RetryLimitExceeded")

    actions = plan(spec, observed(world, sources={Component.VISION: answer}), world.now)

    (update,) = [action for action in actions if isinstance(action, UpdateStatus)]
    assert update.status.is_true(ConditionType.FAILED)
    assert PostEvent(Reason.VISION_SOURCE_FAILED, answer.message, warning=True) in actions
