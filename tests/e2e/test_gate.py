"""The gate: a stage starts only from a checkpoint that is what its manifest says."""

import pytest

from internvl_operator.api.reasons import Reason
from internvl_operator.api.status import ConditionType, Phase
from internvl_trainer.contract import keys
from internvl_trainer.contract.base import Component
from internvl_trainer.contract.manifest import Manifest
from tests.e2e.conftest import Platform
from tests.e2e.stage_of_life import finished, small_run, small_stage, wait_for
from tests.e2e.test_runs import succeeded

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

OPERATOR = "deployment/internvl-operator"


@pytest.fixture
def operator_away(platform: Platform):
    """A pause of the operator, which is over at the end of the test whatever happens."""
    yield lambda: platform.kubectl.run("scale", OPERATOR, "--replicas=0")
    platform.kubectl.run("scale", OPERATOR, "--replicas=1")


def test_a_corrupted_shard_keeps_the_next_stage_from_starting_and_status_says_which(
    platform: Platform, operator_away, tmp_path
):
    kubectl = platform.kubectl
    run = small_run(
        "corrupt",
        small_stage("stage1", Component.PROJECTOR, steps=2),
        small_stage("stage2", Component.PROJECTOR, Component.LANGUAGE, steps=2),
    )
    uid = platform.apply(run)
    wait_for("the job to be there", lambda: kubectl.exists("pytorchjob", "corrupt-stage1-a1"), seconds=180)
    operator_away()
    wait_for("stage1's job to succeed", lambda: succeeded(kubectl.get("pytorchjob", "corrupt-stage1-a1")), seconds=240)

    folder = keys.checkpoint_prefix(f"{platform.target.storage.uri}/runs", uid, "stage1", 2, 1)
    manifest = Manifest.from_bytes(platform.store.read(folder + keys.MANIFEST_NAME))
    shard = [stored for stored in manifest.objects if stored.key.endswith(".distcp")][-1]
    damaged = bytearray(platform.store.read(folder + shard.key))
    damaged[len(damaged) // 2] ^= 0xFF
    (tmp_path / "shard").write_bytes(damaged)
    platform.store.upload(tmp_path / "shard", folder + shard.key)

    kubectl.run("scale", OPERATOR, "--replicas=1")
    ended = finished(kubectl, run.name, seconds=240)
    assert ended.phase == Phase.FAILED
    failed, ready = ended.condition(ConditionType.FAILED), ended.condition(ConditionType.CHECKPOINT_READY)
    assert failed is not None
    assert failed.reason == Reason.HANDOFF_INVALID
    assert shard.key in failed.message
    assert ready is not None
    assert ready.status == "False"
    assert not kubectl.exists("pytorchjob", "corrupt-stage2-a1"), "nothing may start from a damaged checkpoint"
