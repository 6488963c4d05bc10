"""Checkpoints of real ShardedTensors in a real S3 server, written by two nodes that share no disk."""

import hashlib
from pathlib import Path
from typing import Any

import pytest

from hack.cluster.object_store import ObjectStore as S3Server
from internvl_trainer.contract import gate, keys
from internvl_trainer.contract.base import Component
from internvl_trainer.contract.gate import Expected
from internvl_trainer.contract.manifest import ComponentManifest, Manifest
from internvl_trainer.storage import ObjectStore, open_store
from tests.integration.checkpoint.jobs import run_story

pytestmark = [pytest.mark.integration, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def settings(s3_server: S3Server) -> dict[str, Any]:
    """Where this module's runs keep their checkpoints."""
    return {"storage": "s3://checkpoints/in-s3", "endpoint": s3_server.endpoint}


@pytest.fixture(scope="module")
def store(settings: dict[str, Any]) -> ObjectStore:
    """The test's own view of the store."""
    return open_store(endpoint_url=settings["endpoint"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scratch of all nodes, each in its own subfolder."""
    return tmp_path_factory.mktemp("nodes")


@pytest.fixture(scope="module")
def life(settings: dict[str, Any], folder: Path) -> list[dict[str, Any]]:
    """What the four ranks of the first run saw."""
    return run_story("whole_life", settings, folder, nodes=2, per_node=2)


@pytest.fixture(scope="module")
def final(life: list[dict[str, Any]], store: ObjectStore) -> Manifest:
    """The first run's last manifest."""
    return Manifest.from_bytes(store.read(life[0]["ref2"]["uri"]))


def test_all_ranks_agree_on_the_committed_manifest(life: list[dict[str, Any]]) -> None:
    assert len(life) == 4
    assert all(seen["ref2"] == life[0]["ref2"] for seen in life)
    assert all(seen["nothing"] for seen in life), "an empty stage has nothing to resume"


def test_the_manifest_passes_the_gate_that_the_operator_uses(
    life: list[dict[str, Any]], store: ObjectStore, final: Manifest
) -> None:
    uri = life[0]["ref2"]["uri"]
    prefix = uri.removesuffix(keys.MANIFEST_NAME)
    observed = {info.uri.removeprefix(prefix): gate.Observed(info.size, info.etag) for info in store.list(prefix)}
    expected = Expected(run_uid="uid-1", stage="stage1", attempt=1, final=True, sha256=life[0]["ref2"]["sha256"])
    assert gate.judge(store.read(uri), observed, expected).problems == ()
    assert {stored.key for stored in final.objects} | {keys.MANIFEST_NAME} == set(observed)
    assert all(observed[stored.key].etag == stored.etag != "" for stored in final.objects)


def test_the_manifest_names_every_component_and_shards_of_both_nodes(final: Manifest) -> None:
    assert set(final.components) == {"vision", "projector", "language", "optimizer", "state"}
    assert {f"__{rank}_0.distcp" for rank in range(4)} <= {stored.key for stored in final.objects}
    assert (final.step, final.tokens, final.data_packs, final.is_final) == (2, 200, 8, True)


def test_saving_a_committed_step_again_changes_nothing(life: list[dict[str, Any]]) -> None:
    assert life[0]["again"] == life[0]["ref2"]


@pytest.mark.parametrize("layout", ["PP4", "TP2 DP2"])
def test_a_resume_at_another_layout_is_exact(life: list[dict[str, Any]], layout: str) -> None:
    for rank, seen in enumerate(life):
        assert seen[layout] == {"state": True, "holds": True, "step": 2}, f"rank {rank}"


@pytest.mark.usefixtures("life")
def test_scratch_is_empty_afterwards(folder: Path) -> None:
    assert {node.name: list(node.iterdir()) for node in folder.glob("node*")} == {"node0": [], "node1": []}


def test_a_published_component_points_at_the_final_checkpoint(life: list[dict[str, Any]], store: ObjectStore) -> None:
    (uri,) = life[0]["published"]
    assert life[0]["published again"] == [uri]
    offer = ComponentManifest.from_bytes(store.read(uri))
    assert offer.source.model_dump() == life[0]["ref2"]
    assert offer.tensors == ("vision_model.norm.weight", "vision_model.patch.weight")
    assert [(link.run.uid, link.stage, link.step) for link in offer.lineage] == [("uid-1", "stage1", 2)]


def test_one_process_resumes_what_four_wrote(
    life: list[dict[str, Any]], settings: dict[str, Any], folder: Path
) -> None:
    assert run_story("resumes", {**settings, "attempt": 1}, folder) == [{"step": 2, "holds": True}]


def test_the_vit_goes_from_run_to_run(
    life: list[dict[str, Any]], settings: dict[str, Any], store: ObjectStore, folder: Path
) -> None:
    (uri,) = life[0]["published"]
    vision = {"uri": uri, "sha256": hashlib.sha256(store.read(uri)).hexdigest()}
    (seen,) = run_story("hands_the_vit_on", {**settings, "vision": vision, "checkpoint": life[0]["ref2"]}, folder)

    taken = {name for name, holds in seen["after"].items() if holds}
    kept = {name for name, holds in seen["untouched"].items() if holds}
    assert taken == {"vision_model.patch.weight", "vision_model.norm.weight"}
    assert kept == set(seen["after"]) - taken, "everything but the ViT stays as it was initialised"
    assert not [name for name in seen["downloads"] if name.startswith("optimizer")]

    second = Manifest.from_bytes(store.read(seen["second"]["uri"]))
    assert second.parents[Component.VISION].uri == uri
    assert [link.run.uid for link in second.vision_lineage] == ["uid-1"]
    third = Manifest.from_bytes(store.read(seen["third"]["uri"]))
    assert [link.run.uid for link in third.vision_lineage] == ["uid-1", "uid-2"]
    assert third.vision_lineage[-1].manifest.model_dump() == seen["second"]

    assert "component vision" in seen["mismatch"]
    assert "'hidden': 96" in seen["mismatch"], "the checkpoint's geometry"
    assert "'hidden': 1024" in seen["mismatch"], "the job's geometry"
    weights = {name for name in seen["after"] if not name.startswith("optimizer.")}
    assert {name for name, holds in seen["evaluation"]["holds"].items() if holds} == weights


def test_a_failed_upload_on_one_node_is_an_error_on_all(
    settings: dict[str, Any], store: ObjectStore, folder: Path
) -> None:
    seen = run_story("one_node_cannot_upload", settings, folder, nodes=2)
    assert [bool(each["error"]) for each in seen] == [True, True]
    assert "rank 1" in seen[0]["error"]
    assert [list(node.iterdir()) for node in folder.glob("node*")] == [[], []]
    left = [info.uri for info in store.list(f"{settings['storage']}/uid-1/cut-off/")]
    assert left, "node 0 did upload its shards"
    assert not [uri for uri in left if uri.endswith(keys.MANIFEST_NAME)]


def test_a_rewritten_object_makes_resume_fall_back(settings: dict[str, Any], folder: Path, tmp_path: Path) -> None:
    mine = {**settings, "storage": "s3://checkpoints/rewritten"}
    (saved,) = run_story("saves", {**mine, "steps": [1, 2]}, folder)
    store = open_store(endpoint_url=settings["endpoint"])
    victim = saved["refs"][1]["uri"].replace(keys.MANIFEST_NAME, "__0_0.distcp")
    damaged = tmp_path / "damaged"
    damaged.write_bytes(bytes(len(store.read(victim))))
    store.upload(damaged, victim)
    assert run_story("resumes", {**mine, "attempt": 2}, folder) == [{"step": 1, "holds": True}]
    assert "ETagMismatch" in _newest_log(folder)


def test_a_death_before_the_manifest_leaves_no_checkpoint(settings: dict[str, Any], folder: Path) -> None:
    mine = {**settings, "storage": "s3://checkpoints/death"}
    assert run_story("dies_before_the_manifest", mine, folder, may_die=True) == []
    store = open_store(endpoint_url=settings["endpoint"])
    names = [info.uri.split("/stage1/")[1] for info in store.list("s3://checkpoints/death/")]
    assert "step-00000002/a1/__0_0.distcp" in names
    assert "step-00000002/a1/MANIFEST.json" not in names
    assert run_story("resumes", {**mine, "attempt": 2}, folder) == [{"step": 1, "holds": True}]


def _newest_log(folder: Path) -> str:
    newest = max(folder.glob("out-*/0.log"), key=lambda path: path.stat().st_mtime)
    return newest.read_text()
