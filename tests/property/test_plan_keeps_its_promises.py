"""Whatever happens, in whatever order, and wherever the operator dies: one live job, stages in order, and an end."""

import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from internvl_operator.api.status import MAX_FAILURES, Phase, StageState
from internvl_operator.domain.actions import Action, PostEvent, Requeue
from internvl_trainer.contract.exit_codes import ExitCode
from tests.property.world import World, training_spec

pytestmark = pytest.mark.unit

EXAMPLES = int(os.environ.get("INTERNVL_EXAMPLES", "40"))
"""Raise it for a thorough search."""

EXIT_CODES = st.sampled_from([1, 137, None, *(code for code in ExitCode if code)])


class RunUnderFire(RuleBasedStateMachine):
    """A run whose jobs, pods, store, user and operator do what they like.

    Observing and acting are separate steps: the world may move between them, which is what stale reads are.
    """

    @initialize(stages=st.integers(1, 3), retry_limit=st.integers(0, 3), timeout=st.sampled_from([0, 600]))
    def apply_the_run(self, stages: int, retry_limit: int, timeout: int) -> None:
        spec = training_spec(stages, retry_limit=retry_limit)
        policy = spec.run_policy.model_copy(update={"attempt_timeout_seconds": timeout})
        self.world = World(spec.model_copy(update={"run_policy": policy}))
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

    @rule(seconds=st.sampled_from([0.3, 5, 400]))
    def time_passes(self, seconds: float) -> None:
        self.world.pass_time(seconds)

    @rule()
    def the_pods_start(self) -> None:
        self.world.start()

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

    @rule()
    def the_late_manifest_appears(self) -> None:
        for job in self.world.jobs:
            if job.exists and job.phase == "Succeeded":
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
            world.succeed()
            for job in world.jobs:
                if job.exists and job.phase == "Succeeded":
                    world.commit(job)
        assert world.status.phase in (Phase.SUCCEEDED, Phase.FAILED), world.stored
        assert world.current is None, "the run has ended, and a job of it lives on"


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
RETRY_LIMIT = 2
TIMEOUT = {"attempt_timeout_seconds": 600}


def run_to_the_end(outcomes: list[str], deaths: list[int]) -> World:
    """A run whose n-th job ends like `outcomes[n]` (then all succeed), under an operator that dies as `deaths` say:
    its n-th pass that has something to do ends after that many actions."""
    spec = training_spec(2, retry_limit=RETRY_LIMIT)
    world = World(spec.model_copy(update={"run_policy": spec.run_policy.model_copy(update=TIMEOUT)}))
    remaining = list(deaths)
    for _ in range(200):
        actions, seen = world.think()
        if any(not isinstance(action, Requeue | PostEvent) for action in actions):
            world.act(actions, seen, crash_after=remaining.pop(0) if remaining else None)
        elif world.status.is_finished:
            return world
        else:
            world.pass_time(1)
            move_on(world, outcomes)
    raise AssertionError(f"the run does not end: {world.stored}")


def move_on(world: World, outcomes: list[str]) -> None:
    """What the operator waits for happens: the job ends, the manifest appears, the pods go, the user resumes."""
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


def expected_end(outcomes: list[str]) -> list[tuple[StageState, int, int, int]]:
    """State, attempts, failures and interruptions of both stages, by the rules as one would tell them."""
    endings = [*outcomes, "success", "success"]
    stages = []
    for _ in range(2):
        attempts, failures, interruptions, state = 0, 0, 0, StageState.PENDING
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


@given(outcomes=OUTCOMES, deaths=st.lists(st.integers(0, 3), max_size=25))
@settings(max_examples=EXAMPLES, deadline=None)
def test_an_operator_that_dies_at_any_point_leads_to_the_same_end(outcomes: list[str], deaths: list[int]) -> None:
    undisturbed, disturbed = run_to_the_end(outcomes, []), run_to_the_end(outcomes, deaths)

    ended = [(s.state, s.attempt, s.restarts.failures, s.restarts.interruptions) for s in undisturbed.status.stages]
    assert ended == expected_end(outcomes)
    assert _essence(disturbed) == _essence(undisturbed)


def _essence(world: World) -> object:
    """The end state without times and words."""
    status = world.status
    stages = [
        (stage.name, stage.state, stage.attempt, stage.restarts, stage.published, stage.initialised_from)
        for stage in status.stages
    ]
    reasons = [(condition.type, condition.status, condition.reason) for condition in status.conditions]
    return status.phase, stages, reasons, [job.create.name for job in world.jobs]
