"""Whatever happens, in whatever order, and wherever the operator dies: one live job, stages in order, and an end.

No stage trains before its data is indexed.
"""

import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from internvl_operator.api.spec import TrainingSpec
from internvl_operator.api.status import MAX_FAILURES, Phase, StageState
from internvl_operator.domain.actions import Action, PostEvent, Requeue
from internvl_operator.domain.state import JobPhase
from internvl_trainer.contract.exit_codes import ExitCode
from tests.property.world import World, training_spec

pytestmark = pytest.mark.unit

EXAMPLES = int(os.environ.get("INTERNVL_EXAMPLES", "40"))
"""Raise it for a thorough search."""

EXIT_CODES = st.sampled_from([1, 137, None, *(code for code in ExitCode if code)])


def with_data_of_its_own(spec: TrainingSpec) -> TrainingSpec:
    """The same run, each of whose stages reads data that no other reads."""
    stages = [stage.to_dict() for stage in spec.stages]
    for number, stage in enumerate(stages):
        stage["data"] = {"meta": f"s3://data/meta-{number}.json"}
    return TrainingSpec.model_validate(spec.to_dict() | {"stages": stages})


class RunUnderFire(RuleBasedStateMachine):
    """A run whose jobs, index Jobs, pods, store, user and operator do what they like.

    Observing and acting are separate steps: the world may move between them, which is what stale reads are.
    """

    @initialize(
        stages=st.integers(1, 3),
        retry_limit=st.integers(0, 3),
        timeout=st.sampled_from([0, 600]),
        data=st.sampled_from(["indexed before", "shared", "of its own"]),
    )
    def apply_the_run(self, stages: int, retry_limit: int, timeout: int, data: str) -> None:
        spec = training_spec(stages, retry_limit=retry_limit)
        spec = with_data_of_its_own(spec) if data == "of its own" else spec
        policy = spec.run_policy.model_copy(update={"attempt_timeout_seconds": timeout})
        spec = spec.model_copy(update={"run_policy": policy})
        self.world = World(spec, data_indexed=data == "indexed before")
        self.thought: tuple[list[Action], int] | None = None

    @rule()
    def the_operator_observes_and_plans(self) -> None:
        self.thought = self.world.think()

    @precondition(lambda self: self.thought is not None)
    @rule(crash_after=st.none() | st.integers(0, 3))
    def it_acts_and_may_die(self, crash_after: int | None) -> None:
        assert self.thought is not None
        self.world.act(*self.thought, crash_after=crash_after)
        self.thought = None

    @rule(pods_go=st.booleans())
    def all_is_quiet_for_a_while(self, pods_go: bool) -> None:
        self.thought = None
        self.world.settle()
        if pods_go:
            self.world.reap()
            self.world.settle()
        if self.world.spec.suspend:
            assert self.world.current is None, "the run is suspended, and a job of it lives on"
            assert self.world.index is None, "the run is suspended, and an index Job of it lives on"

    @rule(seconds=st.sampled_from([0.3, 5, 400]))
    def time_passes(self, seconds: float) -> None:
        self.world.pass_time(seconds)

    @rule()
    def the_pods_start(self) -> None:
        self.world.start()

    @rule()
    def the_index_jobs_pod_starts(self) -> None:
        self.world.start_indexing()

    @rule()
    def the_data_is_indexed(self) -> None:
        self.world.end_indexing(JobPhase.SUCCEEDED)

    @rule(code=EXIT_CODES, gives_up=st.booleans())
    def a_pod_of_the_index_job_fails(self, code: int | None, gives_up: bool) -> None:
        self.world.fail_index_pod(code)
        if gives_up:
            self.world.end_indexing(JobPhase.FAILED, hopeless=code == ExitCode.INVALID_CONFIG)

    @rule()
    def somebody_deletes_the_index_job(self) -> None:
        self.world.lose_index_job()

    @rule(number=st.integers(0, 1))
    def the_user_corrects_the_data(self, number: int) -> None:
        if not any(stage.has_begun for stage in self.world.status.stages):
            self.world.correct_data(max_tiles=6 + number)

    @rule(step=st.integers(0, 10))
    def a_report_comes_in(self, step: int) -> None:
        self.world.report(step)

    @rule(manifest=st.booleans())
    def the_job_succeeds(self, manifest: bool) -> None:
        self.world.succeed(manifest=manifest)

    @rule(code=EXIT_CODES, disrupted=st.booleans(), linger=st.booleans())
    def a_pod_fails(self, code: int | None, disrupted: bool, linger: bool) -> None:
        self.world.fail(code, disrupted=disrupted, linger=linger)

    @rule(code=EXIT_CODES)
    def an_attempt_comes_and_goes(self, code: int | None) -> None:
        self.all_is_quiet_for_a_while(pods_go=True)
        self.world.start()
        self.all_is_quiet_for_a_while(pods_go=False)
        self.world.fail(code)

    @rule(of_the_dead=st.booleans())
    def the_late_manifest_appears(self, of_the_dead: bool) -> None:
        for job in self.world.jobs:
            if of_the_dead or (job.exists and job.phase == "Succeeded"):
                self.world.commit(job)

    @rule()
    def somebody_deletes_the_job(self) -> None:
        self.world.vanish()

    @rule()
    def dead_pods_disappear(self) -> None:
        self.world.reap()

    @rule(value=st.booleans())
    def the_user_suspends_or_resumes(self, value: bool) -> None:
        self.world.suspend(value)

    @invariant()
    def the_record_makes_sense(self) -> None:
        if not hasattr(self, "world"):
            return
        status = self.world.status
        done = [stage.state is StageState.SUCCEEDED for stage in status.stages]
        assert done == sorted(done, reverse=True), "a stage is done before the one ahead of it"
        accepted = [stage.last_checkpoint.uri for stage in status.stages if stage.state is StageState.SUCCEEDED]
        own = [self.world.manifests[stage.name, stage.attempt].uri for stage in status.stages[: len(accepted)]]
        assert accepted == own, "a stage was ended by the manifest of an attempt that had been replaced"
        assert len(status.failures) <= MAX_FAILURES
        assert all(stage.closed_attempt <= stage.attempt for stage in status.stages)
        limit = self.world.spec.run_policy.retry.limit
        assert all(stage.restarts.failures <= limit + 1 for stage in status.stages)

    def teardown(self) -> None:
        """Left alone, every run comes to its end: from here on jobs succeed, and nobody interferes."""
        if not hasattr(self, "world"):
            return
        world = self.world
        world.suspend(False)
        for _ in range(20):
            world.reap()
            world.pass_time(1)
            world.settle()
            if world.status.is_finished:
                break
            world.end_indexing(JobPhase.SUCCEEDED)
            world.succeed()
            for job in world.jobs:
                if job.exists and job.phase == "Succeeded":
                    world.commit(job)
        assert world.status.phase in (Phase.SUCCEEDED, Phase.FAILED), world.stored
        assert world.current is None, "the run has ended, and a job of it lives on"
        assert world.index is None, "the run has ended, and an index Job of it lives on"


TestRunUnderFire = RunUnderFire.TestCase
TestRunUnderFire.settings = settings(
    max_examples=EXAMPLES, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
TestRunUnderFire.pytestmark = [pytest.mark.unit]

OUTCOMES = st.lists(
    st.sampled_from(
        [
            "success",
            "late manifest",
            "crash",
            "lingering pod",
            "deleted",
            "overdue",
            "interrupted",
            "suspended",
            "fatal",
        ]
    ),
    max_size=10,
)
INDEXINGS = st.lists(st.sampled_from(["indexed", "deleted", "suspended", "hopeless", "gave up"]), max_size=5)
RETRY_LIMIT = 2
TIMEOUT = {"attempt_timeout_seconds": 600}


def run_to_the_end(outcomes: list[str], indexings: list[str], deaths: list[int], *, shared: bool) -> World:
    """A run whose n-th job ends like `outcomes[n]` and whose n-th index Job like `indexings[n]` (then all succeed),
    under an operator that dies as `deaths` say: its n-th pass that has something to do ends after that many actions.
    """
    spec = training_spec(2, retry_limit=RETRY_LIMIT)
    spec = spec if shared else with_data_of_its_own(spec)
    spec = spec.model_copy(update={"run_policy": spec.run_policy.model_copy(update=TIMEOUT)})
    world = World(spec, data_indexed=False)
    remaining = list(deaths)
    for _ in range(200):
        actions, seen = world.think()
        if any(not isinstance(action, Requeue | PostEvent) for action in actions):
            world.act(actions, seen, crash_after=remaining.pop(0) if remaining else None)
        elif world.status.is_finished:
            return world
        else:
            world.pass_time(1)
            move_on(world, outcomes, indexings)
    raise AssertionError(f"the run does not end: {world.stored}")


def move_on(world: World, outcomes: list[str], indexings: list[str]) -> None:
    """What the operator waits for happens: a job ends, the manifest appears, the pods go, the user resumes."""
    if world.index is not None:
        end_indexing(world, dict(enumerate(indexings)).get(len(world.indexes) - 1, "indexed"))
        return
    if world.current is None:
        world.reap()
        world.suspend(False)
        for job in world.jobs:
            if job.phase == "Succeeded":
                world.commit(job)
        return
    if world.current.phase == "Created":
        world.start()
        return
    match dict(enumerate(outcomes)).get(len(world.jobs) - 1, "success"):
        case "success":
            world.succeed()
        case "late manifest":
            world.succeed(manifest=False)
        case "crash":
            world.fail(1)
        case "lingering pod":
            world.fail(ExitCode.PEER_LOST, linger=True)
        case "deleted":
            world.vanish()
        case "overdue":
            world.pass_time(600)
        case "interrupted":
            world.fail(ExitCode.INTERRUPTED)
        case "suspended":
            world.suspend(True)
        case "fatal":
            world.fail(ExitCode.INVALID_CONFIG)


def end_indexing(world: World, how: str) -> None:
    match how:
        case "indexed":
            world.end_indexing(JobPhase.SUCCEEDED)
        case "deleted":
            world.lose_index_job()
        case "suspended":
            world.suspend(True)
        case "hopeless":
            world.fail_index_pod(ExitCode.INVALID_CONFIG)
            world.end_indexing(JobPhase.FAILED, hopeless=True)
        case "gave up":
            world.fail_index_pod(1)
            world.end_indexing(JobPhase.FAILED)


def expected_end(
    outcomes: list[str], indexings: list[str], *, shared: bool
) -> list[tuple[StageState, int, int, int]]:  # fmt: skip
    """State, attempts, failures and interruptions of both stages, by the rules as one would tell them."""
    endings, of_index = [*outcomes, "success", "success"], [*indexings, "indexed", "indexed"]
    stages: list[tuple[StageState, int, int, int]] = []
    for number in range(2):
        attempts, failures, interruptions, state = 0, 0, 0, StageState.PENDING
        needs_index = number == 0 or not shared
        while needs_index and not any(stage[0] is StageState.FAILED for stage in stages):
            ending = of_index.pop(0)
            needs_index = ending in ("deleted", "suspended")
            if ending in ("hopeless", "gave up"):
                state = StageState.FAILED
        while state is StageState.PENDING and not any(stage[0] is StageState.FAILED for stage in stages):
            ending, attempts = endings.pop(0), attempts + 1
            interruptions += ending in ("interrupted", "suspended")
            failures += ending in ("crash", "lingering pod", "deleted", "overdue", "fatal")
            if ending == "fatal" or failures > RETRY_LIMIT:
                state = StageState.FAILED
            elif ending in ("success", "late manifest"):
                state = StageState.SUCCEEDED
        stages.append((state, attempts, failures, interruptions))
    return stages


@given(outcomes=OUTCOMES, indexings=INDEXINGS, deaths=st.lists(st.integers(0, 3), max_size=25), shared=st.booleans())
@settings(max_examples=EXAMPLES, deadline=None)
def test_an_operator_that_dies_at_any_point_leads_to_the_same_end(
    outcomes: list[str], indexings: list[str], deaths: list[int], shared: bool
) -> None:
    undisturbed, disturbed = (
        run_to_the_end(outcomes, indexings, died, shared=shared) for died in ([], deaths)
    )  # fmt: skip

    ended = [(s.state, s.attempt, s.restarts.failures, s.restarts.interruptions) for s in undisturbed.status.stages]
    assert ended == expected_end(outcomes, indexings, shared=shared)
    assert _essence(disturbed) == _essence(undisturbed)


def _essence(world: World) -> object:
    """The end state without times and words."""
    status = world.status
    stages = [
        (stage.name, stage.state, stage.attempt, stage.restarts, stage.published, stage.initialised_from)
        for stage in status.stages
    ]
    made = [stage.data_index for stage in status.stages]
    reasons = [(condition.type, condition.status, condition.reason) for condition in status.conditions]
    jobs = [job.create.name for job in world.jobs]
    return status.phase, stages, made, reasons, jobs, [index.create.name for index in world.indexes]
