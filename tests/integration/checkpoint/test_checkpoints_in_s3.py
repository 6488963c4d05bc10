"""Checkpoints of real ShardedTensors in a real S3 server, written by two nodes that share no disk."""

import dataclasses
import hashlib
from pathlib import Path

import pytest

from hack.cluster.object_store import ObjectStore as S3Server
from internvl_trainer.contract import gate, keys
from internvl_trainer.contract.base import Component
from internvl_trainer.contract.gate import Expected
from internvl_trainer.contract.manifest import ComponentManifest, Manifest, ManifestRef
from internvl_trainer.storage import ObjectStore, open_store
from tests.integration.checkpoint import stories
from tests.integration.checkpoint.stories import LOG, Result, Setting, run_story

pytestmark = [pytest.mark.integration, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def setting(s3_server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Setting:
    """Where this module's runs keep their checkpoints."""
    folder = tmp_path_factory.mktemp("nodes")
    return Setting(folder, "s3://checkpoints/in-s3", s3_server.endpoint, s3_server.environment())


@pytest.fixture(scope="module")
def store(setting: Setting) -> ObjectStore:
    """The test's own view of the store."""
    return open_store(endpoint_url=setting.endpoint)


@pytest.fixture(scope="module")
def life(setting: Setting) -> list[Result]:
    """What the four ranks of the first run saw."""
    return run_story(stories.whole_life, setting, nodes=2, per_node=2)


@pytest.fixture(scope="module")
def ref(life: list[Result]) -> ManifestRef:
    """The first run's last checkpoint."""
    return ManifestRef.model_validate(life[0]["ref2"])


@pytest.fixture(scope="module")
def final(ref: ManifestRef, store: ObjectStore) -> Manifest:
    """Its manifest."""
    return Manifest.from_bytes(store.read(ref.uri))


def test_all_ranks_agree_on_the_committed_manifest(life: list[Result], ref: ManifestRef) -> None:
    assert [seen["ref2"] for seen in life] == [ref] * 4
    assert all(seen["nothing"] for seen in life), "an empty stage has nothing to resume"


def test_the_manifest_passes_the_gate_that_the_operator_uses(
    ref: ManifestRef, store: ObjectStore, final: Manifest
) -> None:
    prefix = ref.uri.removesuffix(keys.MANIFEST_NAME)
    observed = {info.uri.removeprefix(prefix): gate.Observed(info.size, info.etag) for info in store.list(prefix)}
    expected = Expected(run_uid="uid-1", stage="stage1", attempt=1, final=True, sha256=ref.sha256)
    assert gate.judge(store.read(ref.uri), observed, expected).problems == ()
    assert {stored.key for stored in final.objects} | {keys.MANIFEST_NAME} == set(observed)
    assert all(observed[stored.key].etag == stored.etag != "" for stored in final.objects)


def test_the_manifest_names_every_component_and_shards_of_both_nodes(final: Manifest) -> None:
    assert set(final.components) == {"vision", "projector", "language", "optimizer", "state"}
    assert {f"language__{rank}_0.distcp" for rank in range(4)} <= {stored.key for stored in final.objects}
    assert (final.step, final.tokens, final.data.packs, final.is_final) == (2, 200, 8, True)


def test_the_log_says_how_long_training_stood_still(life: list[Result]) -> None:
    assert life[0][LOG].count("training stood still for") == 2
    assert "training stood still" not in life[1][LOG], "one rank tells it"


def test_saving_a_committed_step_again_changes_nothing(life: list[Result], ref: ManifestRef) -> None:
    assert life[0]["again"] == ref


@pytest.mark.parametrize("layout", ["PP4", "TP2 DP2"])
def test_a_resume_at_another_layout_is_exact(life: list[Result], layout: str) -> None:
    assert [seen[layout] for seen in life] == [{"exact": True, "step": 2}] * 4


@pytest.mark.usefixtures("life")
def test_scratch_is_empty_afterwards(setting: Setting) -> None:
    assert {node.name: list(node.iterdir()) for node in setting.folder.iterdir()} == {"node0": [], "node1": []}


def test_a_published_component_points_at_the_final_checkpoint(
    life: list[Result], ref: ManifestRef, store: ObjectStore
) -> None:
    (uri,) = life[0]["published"]
    assert life[0]["published again"] == [uri]
    offer = ComponentManifest.from_bytes(store.read(uri))
    assert offer.source == ref
    assert offer.tensors == ("vision_model.norm.weight", "vision_model.patch.weight")
    assert [(link.run.uid, link.stage, link.step) for link in offer.lineage] == [("uid-1", "stage1", 2)]


@pytest.mark.usefixtures("life")
def test_one_process_resumes_what_four_wrote(setting: Setting) -> None:
    (seen,) = run_story(stories.resumes, setting, 1)
    assert (seen["step"], seen["holds"]) == (2, True)


def test_the_vit_goes_from_run_to_run(
    life: list[Result], ref: ManifestRef, setting: Setting, store: ObjectStore
) -> None:
    (uri,) = life[0]["published"]
    published = ManifestRef(uri=uri, sha256=hashlib.sha256(store.read(uri)).hexdigest())
    (seen,) = run_story(stories.hands_the_vit_on, setting, published, ref)

    taken = {name for name, holds in seen["after"].items() if holds}
    kept = {name for name, holds in seen["untouched"].items() if holds}
    assert taken == {"vision_model.patch.weight", "vision_model.norm.weight"}
    assert kept == set(seen["after"]) - taken, "everything but the ViT stays as it was initialised"
    assert seen["downloads"] == [
        *(".metadata", "metadata.json", "state__0_0.distcp", "vision__0_0.distcp", "vision__1_0.distcp")
    ]

    second = Manifest.from_bytes(store.read(seen["second"].uri))
    assert second.parents == {Component.VISION: published}
    assert [link.run.uid for link in second.vision_lineage] == ["uid-1"]
    third = Manifest.from_bytes(store.read(seen["third"].uri))
    assert [link.run.uid for link in third.vision_lineage] == ["uid-1", "uid-2"]
    assert third.vision_lineage[-1].manifest == seen["second"]

    assert "component vision" in seen["mismatch"]
    assert "'hidden': 96" in seen["mismatch"], "the checkpoint's geometry"
    assert "'hidden': 1024" in seen["mismatch"], "the job's geometry"
    weights = {name for name in seen["after"] if not name.startswith("optimizer.")}
    assert {name for name, holds in seen["evaluation"].items() if holds} == weights


def test_a_failed_upload_on_one_node_is_an_error_on_all(setting: Setting, store: ObjectStore) -> None:
    seen = run_story(stories.one_node_cannot_upload, setting, nodes=2)
    assert [bool(each["error"]) for each in seen] == [True, True]
    assert "rank 1" in seen[0]["error"]
    assert [list(node.iterdir()) for node in setting.folder.iterdir()] == [[], []]
    left = [info.uri for info in store.list(f"{setting.storage}/uid-1/cut-off/")]
    assert left, "node 0 did upload its shards"
    assert not [uri for uri in left if uri.endswith(keys.MANIFEST_NAME)]


def test_a_rewritten_object_makes_resume_fall_back(setting: Setting, store: ObjectStore, tmp_path: Path) -> None:
    mine = dataclasses.replace(setting, storage="s3://checkpoints/rewritten")
    (saved,) = run_story(stories.saves, mine, [1, 2])
    victim = saved["refs"][1].uri.replace(keys.MANIFEST_NAME, "language__0_0.distcp")
    damaged = tmp_path / "damaged"
    damaged.write_bytes(bytes(len(store.read(victim))))
    store.upload(damaged, victim)
    (seen,) = run_story(stories.resumes, mine, 2)
    assert (seen["step"], seen["holds"]) == (1, True)
    assert "ETagMismatch: object language__0_0.distcp" in seen[LOG]


def test_a_death_before_the_manifest_leaves_no_checkpoint(setting: Setting, store: ObjectStore) -> None:
    mine = dataclasses.replace(setting, storage="s3://checkpoints/death")
    with pytest.raises(AssertionError, match="died without a word"):
        run_story(stories.dies_before_the_manifest, mine)
    names = [info.uri.split("/stage1/")[1] for info in store.list("s3://checkpoints/death/")]
    assert "step-00000002/a1/language__0_0.distcp" in names
    assert "step-00000002/a1/MANIFEST.json" not in names
    (seen,) = run_story(stories.resumes, mine, 2)
    assert (seen["step"], seen["holds"]) == (1, True)
