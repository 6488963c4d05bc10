"""Where a run starts from: questions asked, answers judged, the worst news first."""

from typing import Any

import pytest

from internvl_operator.api.reasons import Reason
from internvl_operator.api.spec import TrainingSpec
from internvl_operator.api.status import StageState, TrainingStatus
from internvl_operator.api.training import InternVLTraining
from internvl_operator.domain import origins, queries
from internvl_operator.domain.state import (
    ChildJob,
    JobPhase,
    RunSource,
    SourceInvalid,
    SourceQuery,
    SourceReady,
    SourceWaiting,
    Unavailable,
    UriSource,
)
from internvl_operator.domain.vision import judge_source
from internvl_trainer.contract.base import Component
from internvl_trainer.contract.manifest import ManifestRef
from tests.property.world import DIGEST, RUN, World, training_spec

pytestmark = pytest.mark.unit

SOURCE = RunSource("donor", "stage0")


def donor(status: dict[str, Any] | None = None, spec: TrainingSpec | None = None, **metadata: Any) -> InternVLTraining:
    """The run that publishes: stage0 offers vision."""
    return InternVLTraining.model_validate(
        {
            "apiVersion": "training.internvl.dev/v1alpha1",
            "kind": "InternVLTraining",
            "metadata": {"name": "donor", "namespace": "team-a", **metadata},
            "spec": (spec or training_spec(2)).to_dict(),
            "status": status or {},
        }
    )


def judge(other: InternVLTraining | None, source: RunSource = SOURCE, model: str = "tiny-1b-like") -> Any:
    return judge_source(source, run=RUN, model=model, other=other)


# ---- the vision handoff --------------------------------------------------------------------------------------------


def test_what_was_published_is_taken_even_if_the_donor_failed_later() -> None:
    offer = {"component": "vision", "uri": "s3://runs/donor/vision.json", "sha256": DIGEST}
    failed = {"type": "Failed", "status": "True", "reason": "UserError", "lastTransitionTime": "2026-01-01T00:00:00Z"}
    status = {"conditions": [failed], "stages": [{"name": "stage0", "state": "Succeeded", "published": [offer]}]}

    answer = judge(donor(status))

    assert answer == SourceReady(ManifestRef(uri=offer["uri"], sha256=DIGEST), run="team-a/donor", stage="stage0")


def test_a_donor_that_is_not_there_yet_is_waited_for() -> None:
    answer = judge(None)

    assert isinstance(answer, SourceWaiting)
    assert answer.reason is Reason.VISION_SOURCE_NOT_FOUND
    assert "team-a/donor does not exist" in answer.message


def test_a_donor_that_trains_is_waited_for_and_its_state_is_told() -> None:
    answer = judge(donor({"stages": [{"name": "stage0", "state": "Running"}]}))

    assert isinstance(answer, SourceWaiting)
    assert answer.reason is Reason.WAITING_FOR_VISION
    assert answer.message.endswith("it is Running")


def test_a_donor_being_deleted_will_publish_nothing() -> None:
    answer = judge(donor(deletionTimestamp="2026-01-01T00:00:00Z"))

    assert isinstance(answer, SourceWaiting)
    assert answer.reason is Reason.VISION_SOURCE_NOT_FOUND


def test_a_donor_that_failed_before_ends_the_wait_with_its_own_words() -> None:
    failed = {
        "type": "Failed", "status": "True", "reason": "UserError", "message": "no such data",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }  # fmt: skip

    answer = judge(donor({"conditions": [failed]}))

    assert isinstance(answer, SourceInvalid)
    assert answer.reason is Reason.VISION_SOURCE_FAILED
    assert "no such data" in answer.message


@pytest.mark.parametrize(
    ("source", "model", "words"),
    [
        (RunSource("donor", "stage9"), "tiny-1b-like", "has no stage 'stage9'; its stages: stage0, stage1"),
        (RunSource("donor", "stage1"), "tiny-1b-like", "does not publish vision"),
        (SOURCE, "InternVL2_5-1B", "another geometry than that of InternVL2_5-1B"),
        (RunSource("demo", "stage0"), "tiny-1b-like", "the run itself"),
    ],
)
def test_a_reference_that_can_never_be_right_is_refused(source: RunSource, model: str, words: str) -> None:
    answer = judge(donor(), source, model)

    assert isinstance(answer, SourceInvalid)
    assert answer.reason is Reason.VISION_SOURCE_INVALID
    assert words in answer.message


# ---- the questions -------------------------------------------------------------------------------------------------


def test_every_component_with_a_source_is_asked_for_once_and_never_after_the_first_attempt() -> None:
    spec = training_spec(
        1,
        weights={"language": "s3://models/llm/MANIFEST.json"},
        vision={"from": {"trainingRef": {"name": "donor", "stage": "stage0"}}},
    )

    asked = queries.source_queries(spec, TrainingStatus())

    assert set(asked) == {
        SourceQuery(Component.LANGUAGE, UriSource("s3://models/llm/MANIFEST.json")),
        SourceQuery(Component.VISION, SOURCE),
    }
    world = World(spec)
    world.settle()
    assert world.status.stage("stage0").has_begun
    assert queries.source_queries(spec, world.status) == ()


def test_the_gate_is_asked_only_when_the_open_attempts_job_has_succeeded() -> None:
    world = World(training_spec(2))
    world.settle()
    status = world.status

    def job(attempt: int, phase: JobPhase) -> ChildJob:
        return ChildJob(f"demo-stage0-a{attempt}", "u", "stage0", attempt, phase, world.now)

    def asked(*jobs: ChildJob) -> tuple[object, ...]:
        return queries.gate_queries(world.spec, RUN, status, jobs)

    assert asked() == asked(job(1, JobPhase.RUNNING)) == asked(job(2, JobPhase.SUCCEEDED)) == ()
    (query,) = queries.gate_queries(world.spec, RUN, status, [job(1, JobPhase.SUCCEEDED)])
    assert (query.prefix, query.total_steps, query.publish) == (
        f"s3://runs/demo/{RUN.uid}/stage0/", 10, (Component.VISION,),
    )  # fmt: skip


# ---- the answers ---------------------------------------------------------------------------------------------------

QUERIES = (SourceQuery(Component.VISION, SOURCE), SourceQuery(Component.LANGUAGE, UriSource("s3://models/llm")))
READY = SourceReady(ManifestRef(uri="s3://models/m", sha256=DIGEST), run="team-a/donor", stage="stage0")


def test_a_run_starts_when_all_its_sources_are_ready() -> None:
    start = origins.from_sources(QUERIES, {Component.VISION: READY, Component.LANGUAGE: READY})

    assert start.situation is None
    assert [origin.component for origin in start.origins] == [Component.VISION, Component.LANGUAGE]


def test_news_that_ends_the_run_is_told_before_news_to_wait_for() -> None:
    broken = SourceInvalid(Reason.WEIGHTS_INVALID, "manifest is damaged")
    waiting = SourceWaiting(Reason.WAITING_FOR_VISION, "not yet")

    start = origins.from_sources(QUERIES, {Component.VISION: waiting, Component.LANGUAGE: broken})

    assert start.lacking is Component.LANGUAGE
    assert start.situation
    assert (start.situation.failed, start.situation.reason) == (True, Reason.WEIGHTS_INVALID)


@pytest.mark.parametrize("answer", [Unavailable("connection refused"), None])
def test_without_an_answer_nothing_starts_and_nothing_fails(answer: Unavailable | None) -> None:
    answers = {Component.LANGUAGE: READY} | ({Component.VISION: answer} if answer else {})

    start = origins.from_sources(QUERIES, answers)

    assert start.situation
    assert not start.situation.failed
    assert start.situation.look_again is not None


def test_a_stage_that_is_not_verified_cannot_be_started_from() -> None:
    world = World(training_spec(1))
    world.settle()
    unfinished = world.status.stage("stage0")
    assert unfinished.state is StageState.STARTING

    with pytest.raises(ValueError, match="stage0 has no verified checkpoint"):
        origins.from_stage(unfinished, RUN)
