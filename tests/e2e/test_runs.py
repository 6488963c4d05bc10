"""Whole runs on the real node: undisturbed, with the operator killed, with a worker killed, deleted in the middle."""

import itertools
import os

import pytest

from hack.demo.outcome import StageOutcome, read_outcomes
from internvl_operator.api.reasons import Reason
from internvl_operator.api.status import ConditionType, Phase, StageState, TrainingStatus
from internvl_operator.console.tables import message_of
from internvl_trainer.contract import keys
from tests.e2e.conftest import Platform
from tests.e2e.stage_of_life import (
    children,
    finished,
    small_run,
    status,
    wait_for,
    wait_until,
)

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]

ROUNDS = int(os.environ.get("INTERNVL_SOAK_ROUNDS", "1"))
"""`make soak` repeats the kills, each time at other moments, since nothing keeps time with them."""

STAGES = ("stage1", "stage1-5", "stage2")


@pytest.fixture(scope="module")
def undisturbed(platform: Platform) -> list[StageOutcome]:
    """A run that nothing happened to: the end state that every other run must reach."""
    run = small_run("calm")
    platform.apply(run)
    done = finished(platform.kubectl, run.name)
    assert done.phase == Phase.SUCCEEDED, message_of(done)
    return outcomes(platform, run.name)


def outcomes(platform: Platform, *names: str) -> list[StageOutcome]:
    """What finished runs left in the object store."""
    return read_outcomes([platform.kubectl.get("internvltraining", name) for name in names], platform.store)


def losses(stages: list[StageOutcome]) -> dict[str, list[float]]:
    """The loss of every optimizer step, by stage."""
    return {one.status.name: [metric.loss for metric in one.metrics] for one in stages}


def kill_operator(platform: Platform) -> None:
    """SIGKILL: no grace, no last word. The Deployment starts another one by itself."""
    selector = "app.kubernetes.io/name=internvl-operator"
    platform.kubectl.run("delete", "pods", "--selector", selector, "--grace-period=0", "--force")


def running(stage: str):
    """True of a status whose stage runs: its pods are up, and have seconds of imports and steps before them."""

    def look(seen: TrainingStatus) -> bool:
        return seen.stage(stage).state in (StageState.RUNNING, StageState.HANDOFF, StageState.SUCCEEDED)

    return look


def committed(platform: Platform, uid: str, stage: str) -> bool:
    """Whether an attempt of the stage has committed a checkpoint. The store knows seconds before the status does."""
    prefix = keys.stage_prefix(f"{platform.target.storage.uri}/runs", uid, stage)
    return any(keys.parse_manifest_key(found.uri) for found in platform.store.list(prefix))


def test_stages_are_chained_and_each_starts_from_the_verified_checkpoint_of_the_one_before(
    undisturbed: list[StageOutcome],
):
    assert tuple(one.status.name for one in undisturbed) == STAGES
    for before, after in itertools.pairwise(undisturbed):
        assert set(after.manifest.parents.values()) == {before.ref}
    assert all(one.manifest.is_final and one.status.attempt == 1 for one in undisturbed)
    assert [entry.stage for entry in undisturbed[2].lineage] == ["stage1-5"], "only stage 1.5 trained the ViT before"


@pytest.mark.parametrize("round_", range(ROUNDS))
def test_a_killed_operator_and_a_killed_worker_change_nothing_in_the_end(
    platform: Platform, undisturbed: list[StageOutcome], round_: int
):
    """Two runs at once. The operator dies in every stage and between two; one run loses a worker in the middle."""
    kubectl = platform.kubectl
    steady, struck = small_run(f"steady-{round_}"), small_run(f"struck-{round_}")
    uids = {run.name: platform.apply(run) for run in (steady, struck)}

    wait_until(kubectl, steady.name, "pods of stage1", running("stage1"))
    kill_operator(platform)
    wait_for(
        "stage1's job to succeed",
        lambda: succeeded(kubectl.get("pytorchjob", f"{steady.name}-stage1-a1")),
        seconds=240,
        every=0.2,
    )
    kill_operator(platform)  # between stages: the job is done, the next stage not yet begun
    wait_for(
        "a checkpoint of the struck run's stage1-5",
        lambda: committed(platform, uids[struck.name], "stage1-5"),
        seconds=240,
        every=0.2,
    )
    kubectl.run("delete", "pod", f"{struck.name}-stage1-5-a1-worker-1", "--grace-period=0", "--force")
    wait_until(kubectl, steady.name, "pods of stage1-5", running("stage1-5"))
    kill_operator(platform)
    wait_until(kubectl, steady.name, "pods of stage2", running("stage2"))
    kill_operator(platform)

    for run in (steady, struck):
        done = finished(kubectl, run.name)
        assert done.phase == Phase.SUCCEEDED, message_of(done)
    calm, now = losses(undisturbed), losses(outcomes(platform, steady.name))
    assert now == calm, "the operator's death must not show in any step"
    assert [stage.attempt for stage in status(kubectl, steady.name).stages] == [1, 1, 1]
    made = children(kubectl, uids[steady.name])
    assert (len(made["pytorchjobs"]), len(made["jobs"])) == (3, 1), "stages with the same data share its index"

    after = outcomes(platform, struck.name)
    assert [stage.status.attempt for stage in after] == [1, 2, 1]
    assert losses(after) == calm, "a resumed stage continues its loss curve exactly"
    log = kubectl.run("logs", f"{struck.name}-stage1-5-a2-worker-0")
    assert "resumed from" in log, "the new attempt goes on where the old one had committed, not from the start"
    failure = status(kubectl, struck.name).stage("stage1-5").last_failure
    assert failure is not None
    assert failure.attempt == 1


def succeeded(job: dict) -> bool:
    """Whether a PyTorchJob has the condition Succeeded."""
    conditions = job.get("status", {}).get("conditions", [])
    return any(one["type"] == "Succeeded" and one["status"] == "True" for one in conditions)


def test_deleting_a_run_takes_its_children_and_keeps_its_checkpoints(platform: Platform):
    kubectl = platform.kubectl
    run = small_run("doomed")
    uid = platform.apply(run)
    wait_until(kubectl, run.name, "a first checkpoint", lambda seen: seen.stage("stage1").last_checkpoint is not None)
    checkpoint = status(kubectl, run.name).stage("stage1").last_checkpoint
    assert checkpoint is not None
    kubectl.delete("internvltraining", run.name)
    # A pod that is told to stop before its launcher listens takes its whole grace period of 120 s.
    wait_for(
        "every child to be gone", lambda: not any(children(kubectl, uid).values()), seconds=200,
        say=lambda: str(children(kubectl, uid)),
    )  # fmt: skip
    assert platform.store.read(checkpoint.uri), "the checkpoint outlives the run"


def test_data_that_cannot_be_used_is_told_before_anything_trains_on_it(platform: Platform):
    kubectl = platform.kubectl
    training = platform.training(small_run("unreadable"))
    for stage in training["spec"]["stages"]:
        stage["data"]["meta"] = f"{platform.data_uri}/no-such-meta.json"
    kubectl.apply([training])
    ended = finished(kubectl, "unreadable", seconds=180)
    failed = ended.condition(ConditionType.FAILED)
    assert failed is not None
    assert failed.reason == Reason.DATA_INVALID
    assert "no-such-meta.json" in failed.message
    assert not children(kubectl, str(kubectl.get("internvltraining", "unreadable")["metadata"]["uid"]))["pytorchjobs"]
