"""A stage's data is indexed before its first attempt: once for all stages that read it in the same way."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from internvl_operator.api.reasons import Reason
from internvl_operator.api.spec import TrainingSpec
from internvl_operator.api.status import ConditionType, DataIndexState, Phase, StageState
from internvl_operator.domain.actions import CreateIndexJob, DeleteIndexJob, PostEvent, UpdateStatus
from internvl_operator.domain.indexing import job_name
from internvl_operator.domain.plan import plan
from internvl_operator.domain.stages import expand
from internvl_operator.domain.state import JobPhase, PodFailure, SourceInvalid, SourceReady, SourceWaiting
from internvl_trainer.contract.base import Component
from internvl_trainer.contract.exit_codes import ExitCode
from internvl_trainer.contract.manifest import ManifestRef
from tests.property.world import DIGEST, World, training_spec
from tests.unit.operator.domain.passes import observed, reason

pytestmark = pytest.mark.unit

VISION = {"vision": {"from": {"trainingRef": {"name": "donor", "stage": "stage1-5"}}}}


@pytest.fixture
def fresh() -> World:
    """A run of two stages with the same data, which nobody has looked at yet."""
    return World(training_spec(2), data_indexed=False)


def spec_with_data(**second: Any) -> TrainingSpec:
    """Two stages, of which the second has data settings of its own."""
    stages = [stage.to_dict() for stage in training_spec(2).stages]
    stages[1]["data"] = second
    return training_spec(2, stages=stages)


def names(spec: TrainingSpec) -> list[str]:
    return [job_name("demo", stage) for stage in expand(spec).stages]


def message(world: World, kind: ConditionType = ConditionType.PROGRESSING) -> str:
    condition = world.status.condition(kind)
    assert condition
    return condition.message


# ---- which stages share a Job --------------------------------------------------------------------------------------


def test_stages_with_the_same_data_have_one_job_and_its_name_fits_into_a_pods() -> None:
    first, second = names(training_spec(2))

    assert first == second
    assert first.startswith("demo-index-")
    assert len("r" * 30 + first.removeprefix("demo") + "-xxxxx") <= 63


@pytest.mark.parametrize("order", [{"seed": 7}, {"workers": 3}, {"repeatMode": "reference"}])
def test_the_order_in_which_samples_are_read_changes_no_index(order: dict[str, Any]) -> None:
    first, second = names(spec_with_data(**order))

    assert first == second


@pytest.mark.parametrize(
    "settings",
    [
        {"meta": "s3://data/other.json"},
        {"mixture": [{"name": "a", "annotation": "s3://data/a.jsonl"}]},
        {"tokenizer": "s3://data/other"},
        {"maxTiles": 6},
        {"packTokens": 512},
        {"maxFrames": 16},
        {"maxBadFraction": "0.5"},
    ],
)
def test_what_changes_a_samples_size_or_what_may_be_bad_changes_the_index(settings: dict[str, Any]) -> None:
    first, second = names(spec_with_data(**settings))

    assert first != second


def test_data_and_indexes_that_lie_elsewhere_have_another_job() -> None:
    storage = {"uri": "s3://runs/demo", "endpointUrl": "http://s3.example:8333"}

    assert names(training_spec(1)) != names(training_spec(1, storage=storage))


# ---- the straight way ----------------------------------------------------------------------------------------------


def test_before_anything_trains_the_data_is_indexed_and_status_says_so(fresh: World) -> None:
    actions, _ = fresh.think()
    kinds = [type(action) for action in actions]
    assert kinds.index(UpdateStatus) < kinds.index(CreateIndexJob), "on record before it is created"
    fresh.settle()

    assert fresh.jobs == []
    assert (fresh.status.phase, reason(fresh)) == (Phase.INDEXING, "IndexingData")
    stage = fresh.status.stage("stage0")
    assert stage.state is StageState.INDEXING
    assert stage.data_index
    assert stage.data_index.state is DataIndexState.INDEXING
    assert stage.data_index.job in message(fresh)
    assert "no pod of it runs yet" in message(fresh)

    fresh.start_indexing()
    fresh.settle()
    assert message(fresh).endswith("indexes the data")


def test_the_job_reads_the_config_that_the_stage_will_be_given(fresh: World) -> None:
    fresh.settle()
    given = fresh.indexes[0].create.config
    fresh.end_indexing(JobPhase.SUCCEEDED)
    fresh.settle()

    trained = fresh.jobs[0].create.config
    assert given == trained
    assert given.data.index == "s3://runs/demo/data-index/"


def test_the_second_stage_finds_its_data_indexed_even_where_the_job_is_gone(fresh: World) -> None:
    fresh.settle()
    fresh.end_indexing(JobPhase.SUCCEEDED)
    fresh.settle()
    fresh.lose_index_job()
    fresh.succeed()
    fresh.settle()

    assert [job.create.name for job in fresh.jobs] == ["demo-stage0-a1", "demo-stage1-a1"]
    assert len(fresh.indexes) == 1
    assert fresh.status.stage("stage1").data_index == fresh.status.stage("stage0").data_index


def test_a_stage_with_data_of_its_own_is_indexed_when_its_turn_comes() -> None:
    world = World(spec_with_data(maxTiles=6), data_indexed=False)
    for stage in ("stage0", "stage1"):
        world.settle()
        assert (world.status.current_stage, world.status.phase) == (stage, Phase.INDEXING)
        world.end_indexing(JobPhase.SUCCEEDED)
        world.settle()
        world.succeed()
    world.settle()

    assert world.status.phase is Phase.SUCCEEDED
    assert len({index.create.name for index in world.indexes}) == len(world.indexes) == 2


def test_a_stage_that_has_begun_before_is_not_held_up() -> None:
    world = World(training_spec(1))
    world.settle()
    world.fail(1)
    world.stored["stages"][0].pop("dataIndex")  # as an older operator has left it
    world.settle()

    assert world.indexes == []
    assert [job.create.name for job in world.jobs] == ["demo-stage0-a1", "demo-stage0-a2"]


# ---- beside what the stage starts from -----------------------------------------------------------------------------


def test_data_is_indexed_while_the_run_waits_for_a_vision_encoder() -> None:
    world = World(training_spec(1, **VISION), data_indexed=False)
    waiting = {Component.VISION: SourceWaiting(Reason.WAITING_FOR_VISION, "stage 'stage1-5' of donor is Running")}

    actions = plan(world.spec, observed(world, sources=waiting), world.now)

    assert any(isinstance(action, CreateIndexJob) for action in actions)
    ready = {Component.VISION: SourceReady(ManifestRef(uri="s3://m", sha256=DIGEST))}
    assert any(
        isinstance(action, CreateIndexJob) for action in plan(world.spec, observed(world, sources=ready), world.now)
    )


def test_a_run_that_can_never_start_indexes_nothing_and_stops_what_it_has_begun() -> None:
    world = World(training_spec(1, **VISION), data_indexed=False)
    world.settle()
    (job,) = (world._index_child(index) for index in world.indexes)
    never = {Component.VISION: SourceInvalid(Reason.VISION_SOURCE_FAILED, "donor failed")}

    actions = plan(world.spec, observed(world, sources=never, index_jobs=(job,)), world.now)

    (update,) = [action for action in actions if isinstance(action, UpdateStatus)]
    assert update.status.is_true(ConditionType.FAILED)
    assert DeleteIndexJob(job.name, job.uid) in actions


# ---- failures ------------------------------------------------------------------------------------------------------


def test_bad_data_ends_the_run_with_the_pods_own_words(fresh: World) -> None:
    fresh.settle()
    fresh.fail_index_pod(ExitCode.INVALID_CONFIG, "chart_qa: 812 of 18317 samples cannot be used")
    fresh.end_indexing(JobPhase.FAILED, hopeless=True)
    fresh.settle()

    assert (fresh.status.phase, reason(fresh, ConditionType.FAILED)) == (Phase.FAILED, "DataInvalid")
    assert "invalid config: chart_qa: 812 of 18317 samples cannot be used" in message(fresh, ConditionType.FAILED)
    assert fresh.jobs == []
    recorded = fresh.status.stage("stage0").data_index
    assert recorded
    assert recorded.state is DataIndexState.FAILED


def test_a_job_that_is_out_of_retries_ends_the_run_with_the_last_failure(fresh: World) -> None:
    fresh.settle()
    assert fresh.indexes[0].create.retries == 2, "runPolicy.retry.limit, which the Job controller counts up to"
    for text in ("connection refused", "connection refused", "503 Slow Down"):
        fresh.fail_index_pod(ExitCode.STORE_UNAVAILABLE, text)
        fresh.settle()
        assert reason(fresh) == "IndexingData"
    assert "503 Slow Down" in message(fresh), "what went wrong is told while the Job tries on"
    fresh.end_indexing(JobPhase.FAILED)
    fresh.settle()

    assert reason(fresh, ConditionType.FAILED) == "RetryLimitExceeded"
    assert "503 Slow Down" in message(fresh, ConditionType.FAILED)


def test_a_failed_job_whose_pods_are_gone_fails_with_the_controllers_words(fresh: World) -> None:
    fresh.settle()
    job = replace(
        fresh._index_child(fresh.indexes[0]), phase=JobPhase.FAILED, message="reached the specified backoff limit"
    )

    actions = plan(fresh.spec, observed(fresh, index_jobs=(job,)), fresh.now)

    (event,) = [action for action in actions if isinstance(action, PostEvent) and action.warning]
    assert event.message.endswith("reached the specified backoff limit")


def test_of_several_failures_the_last_is_told(fresh: World) -> None:
    fresh.settle()
    (index,) = fresh.indexes
    moments = [datetime(2026, 1, 1, hour, tzinfo=UTC) for hour in (2, 3)]
    index.failures = (
        PodFailure("b", 21, message="newer", finished_at=moments[1]),
        PodFailure("a", 21, message="older", finished_at=moments[0]),
        PodFailure("c", None, message="nobody knows when"),
    )
    fresh.settle()

    assert message(fresh).endswith("3 pods failed, the last: pod b: peer lost: newer")


def test_a_job_that_the_api_server_refuses_is_asked_for_again(fresh: World) -> None:
    actions = plan(fresh.spec, observed(fresh, rejection="exceeded quota: pods"), fresh.now)

    (status,) = [action.status for action in actions if isinstance(action, UpdateStatus)]
    progressing = status.condition(ConditionType.PROGRESSING)
    assert progressing
    assert (progressing.reason, progressing.message) == ("JobRejected", "exceeded quota: pods")
    assert any(isinstance(action, CreateIndexJob) for action in actions)


# ---- what other people do ------------------------------------------------------------------------------------------


def test_a_job_that_somebody_deletes_is_made_again_under_its_name(fresh: World) -> None:
    fresh.settle()
    fresh.lose_index_job()
    fresh.settle()

    first, second = fresh.indexes
    assert first.create == second.create
    assert second.is_live


def test_a_job_that_is_being_deleted_is_waited_for(fresh: World) -> None:
    fresh.settle()
    job = replace(fresh._index_child(fresh.indexes[0]), deleting=True)

    actions = plan(fresh.spec, observed(fresh, index_jobs=(job,)), fresh.now)

    (update,) = [action for action in actions if isinstance(action, UpdateStatus)]
    condition = update.status.condition(ConditionType.PROGRESSING)
    assert condition
    assert "is being deleted" in condition.message
    assert not any(isinstance(action, CreateIndexJob | DeleteIndexJob) for action in actions)


def test_suspending_stops_the_job_and_resuming_makes_it_again(fresh: World) -> None:
    fresh.settle()
    fresh.start_indexing()
    fresh.suspend(True)
    fresh.settle()
    assert reason(fresh) == "Suspending", "its pod has its grace period"
    fresh.reap()
    fresh.settle()
    assert (fresh.status.phase, reason(fresh)) == (Phase.SUSPENDED, "Suspended")
    assert fresh.status.stage("stage0").data_index is None

    fresh.suspend(False)
    fresh.settle()
    assert fresh.index
    assert fresh.index.create.name == fresh.indexes[0].create.name


def test_corrected_data_is_indexed_in_place_of_the_wrong_one(fresh: World) -> None:
    fresh.settle()
    fresh.spec = training_spec(2, data={"meta": "s3://data/corrected.json", "tokenizer": "s3://data/tokenizer"})
    fresh.settle()

    wrong, corrected = fresh.indexes
    assert (wrong.exists, corrected.exists) == (False, True)
    assert corrected.create.config.data.meta == "s3://data/corrected.json"


def test_a_run_applied_as_suspended_indexes_nothing(fresh: World) -> None:
    fresh.suspend(True)
    fresh.settle()

    assert (fresh.indexes, fresh.status.phase) == ([], Phase.SUSPENDED)
