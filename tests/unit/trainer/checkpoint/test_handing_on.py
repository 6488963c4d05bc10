"""`internvl checkpoint` ls, show, verify, publish, pin and copy, on checkpoints in a folder."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from internvl_operator.api.spec import VisionSpec, WeightsSpec
from internvl_trainer.checkpoint import copying, verify
from internvl_trainer.checkpoint.cli import checkpoint
from internvl_trainer.checkpoint.commands.publish import snippets
from internvl_trainer.contract import keys
from internvl_trainer.contract.base import Component, RunIdentity
from internvl_trainer.contract.manifest import (
    ComponentManifest,
    LineageEntry,
    Manifest,
    ManifestRef,
    RandomState,
    SaveTimes,
)
from internvl_trainer.storage import ObjectStore, StoreUnavailableError
from tests.unit.trainer.checkpoint.bucket import SHARDS, Bucket

pytestmark = pytest.mark.unit


def run(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(checkpoint, arguments)
    assert result.exit_code == code, result.output
    return result


def document(*arguments: str, code: int = 0) -> Any:
    return json.loads(run(*arguments, "-o", "json", code=code).stdout)


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_ls_shows_the_newest_of_a_stage_first_with_its_marks(bucket: Bucket, store: ObjectStore) -> None:
    pinned = bucket.checkpoint(20)
    bucket.pin(pinned)
    bucket.offer(pinned)
    bucket.checkpoint(10)
    bucket.attempt(2, (1, 0), (2, 20))
    bucket.checkpoint(30)
    bucket.checkpoint(30, 2)
    bucket.checkpoint(5, stage="stage2")
    bucket.put(bucket.checkpoint(6, stage="stage2"), b"{}")
    bucket.pour(store)
    rows = document("ls", bucket.storage)
    assert [(row["uri"].split("/")[-4], row.get("step"), row.get("attempt")) for row in rows] == [
        ("stage1", 30, 2),
        ("stage1", 30, 1),
        ("stage1", 20, 1),
        ("stage1", 10, 1),
        ("stage2", None, None),
        ("stage2", 5, 1),
    ]
    assert [row["late"] for row in rows] == [False, True, False, False, False, False]
    assert [row["uri"] for row in rows if row["pinned"]] == [pinned]
    assert [row["published"] for row in rows if row["published"]] == [["vision"]]
    table = run("ls", bucket.storage).stdout
    assert "pinned, vision published" in table
    assert "Unparsable" in table


def test_show_tells_the_whole_story_of_a_checkpoint(bucket: Bucket, store: ObjectStore) -> None:
    earlier = ManifestRef(uri="s3://bucket/step-00000010/a1/MANIFEST.json", sha256="e" * 64)
    first = LineageEntry(
        run=RunIdentity(uid="uid-0", namespace="lab", name="vit"), stage="stage0", step=7, manifest=earlier
    )
    uri = bucket.checkpoint(
        20,
        resumed_from=earlier,
        copied_from=earlier,
        random=RandomState(seed=42, data_seed=43),
        learning_rate=1e-4,
        times=SaveTimes(waited=0.5, copied=1.25, uploaded=60.0),
        vision_lineage=(first,),
    )
    bucket.pour(store)
    run("pin", uri, "--reason", "the [best] so far")
    shown = run("show", uri).stdout
    lines = [line.split() for line in shown.splitlines()]
    assert ["vision", "2", "3", "bytes"] in lines
    assert ["optimizer", "1", "10", "bytes"] in lines
    assert ["for", "all", "of", "them", "5", "bytes"] in lines
    assert ["lab/vit", "stage0", "7", earlier.uri, "e" * 16] in lines
    for fact in (
        "training stood still for 1.75 s (0.50 s of it for the checkpoint before), uploaded in 60.00 s beside it",
        "42 for weights and drop path, 43 for data",
        f"{earlier.uri} (sha256 {'e' * 16})",
        "the [best] so far",
        "0.0001",
        "verified",
    ):
        assert fact in shown
    shown_json = document("show", uri)
    assert shown_json["pin"]["reason"] == "the [best] so far"
    assert Manifest.model_validate(shown_json["manifest"]) == Manifest.from_bytes(store.read(uri))


def test_show_tells_where_a_published_vit_comes_from(bucket: Bucket, store: ObjectStore) -> None:
    uri = bucket.checkpoint(20)
    bucket.pour(store)
    published = document("publish", uri, "--component", "vision")
    shown = run("show", published["uri"]).stdout
    lines = [line.split() for line in shown.splitlines()]
    (sha256,) = {row["sha256"] for row in document("ls", bucket.storage)}
    assert ["default/uid-1", "stage1", "20", uri, sha256[:16]] in lines, "its stage trained it"
    assert "vision, 2 tensors" in shown
    assert lines[-1] == ["verified"]
    as_json = document("show", published["uri"])
    assert (as_json["component"], as_json["source"]["uri"], as_json["problems"]) == ("vision", uri, [])


def test_verify_reads_every_byte_unless_it_is_told_to_be_quick(bucket: Bucket, store: ObjectStore) -> None:
    uri = bucket.checkpoint(20)
    bucket.pour(store)
    found = document("verify", uri)
    assert (found["objects"], found["bytes"], found["read"], found["problems"]) == (4, 23, True, [])
    assert document("verify", uri, "--quick")["read"] is False

    store.put(uri.replace(keys.MANIFEST_NAME, "vision__0_0.distcp"), b"xyz")
    assert run("verify", uri, "--quick").stdout.endswith("verified\n")
    found = document("verify", uri, code=10)
    assert [problem["reason"] for problem in found["problems"]] == ["DigestMismatch"]
    result = run("verify", uri, code=10)
    assert "DigestMismatch: object vision__0_0.distcp" in result.stdout
    assert result.stderr == f"Error: {uri} does not verify\n"


def test_a_component_is_verified_with_the_checkpoint_that_it_points_at(bucket: Bucket, store: ObjectStore) -> None:
    uri = bucket.checkpoint(20)
    bucket.pour(store)
    published = document("publish", uri, "--component", "vision")["uri"]
    assert document("verify", published)["checkpoint"] == uri
    store.put(uri.replace(keys.MANIFEST_NAME, "vision__0_0.distcp"), b"xyz")
    assert document("verify", published, code=10)["problems"][0]["reason"] == "DigestMismatch"

    other = ComponentManifest.from_bytes(store.read(published)).model_copy(update={"stage": "stage9"})
    store.put(published, other.to_bytes())
    assert [each["reason"] for each in document("verify", published, code=10)["problems"]] == ["WrongStage"]
    store.delete(uri)
    assert "cannot read" in run("verify", published, code=10).stderr


def test_publish_writes_a_small_manifest_and_says_how_a_run_starts_from_it(bucket: Bucket, store: ObjectStore) -> None:
    uri = bucket.checkpoint(20)
    bucket.pour(store)
    result = run("publish", uri, "--component", "vision")
    offer_uri = uri.replace(keys.MANIFEST_NAME, "published/vision.json")
    offer = ComponentManifest.from_bytes(store.read(offer_uri))
    assert (offer.source.uri, offer.tensors) == (uri, ("vision_model.x", "vision_model.y"))
    assert [(link.run.uid, link.stage, link.step, link.manifest) for link in offer.lineage] == [
        ("uid-1", "stage1", 20, offer.source)
    ]
    assert "step 20 of 100, not its stage's last" in result.stderr
    assert result.stdout.startswith(f"{offer_uri}\nsha256 ")

    again = run("publish", uri, "--component", "vision")
    assert again.stdout == result.stdout
    assert "published before" in again.stderr


def test_the_snippets_are_what_a_spec_and_a_job_take() -> None:
    ref = ManifestRef(uri="s3://bucket/vision.json", sha256="a" * 64)
    shown = yaml.safe_load(snippets(Component.VISION, ref))
    vision = VisionSpec.model_validate(shown["spec"]["vision"])
    assert vision.from_.uri == ref.uri
    assert ManifestRef.model_validate(shown["init"]["vision"]) == ref
    shown = yaml.safe_load(snippets(Component.LANGUAGE, ref))
    assert WeightsSpec.model_validate(shown["spec"]["weights"]).language == ref.uri


def test_publish_refuses_what_is_not_there_and_a_place_that_is_taken(
    bucket: Bucket, store: ObjectStore, tmp_path: Path
) -> None:
    first, second = bucket.checkpoint(20), bucket.checkpoint(30)
    bucket.pour(store)
    place = str(tmp_path / "vision.json")
    missing = run("publish", first, "--component", "projector", code=10)
    assert "holds no tensor of component projector; it holds vision, language" in missing.stderr
    run("publish", first, "--component", "vision", "--output-uri", place)
    taken = run("publish", second, "--component", "vision", "--output-uri", place, code=22)
    assert f"offers vision of {first}" in taken.stderr
    (tmp_path / "vision.json").write_text("notes")
    assert "taken by something" in run("publish", first, "--component", "vision", "--output-uri", place, code=22).stderr


def test_what_is_published_elsewhere_can_be_pinned_with_it(bucket: Bucket, store: ObjectStore, tmp_path: Path) -> None:
    uri = bucket.checkpoint(20)
    bucket.pour(store)
    place = f"file://{tmp_path}/vision.json"
    unpinned = run("publish", uri, "--component", "vision", "--output-uri", place)
    assert "--pin keeps the checkpoint" in unpinned.stderr
    run("publish", uri, "--component", "vision", "--output-uri", place, "--pin")
    assert document("show", uri)["pin"]["reason"] == f"vision published as {place}"


def test_a_pin_stays_until_it_is_taken_away(bucket: Bucket, store: ObjectStore) -> None:
    uri = bucket.checkpoint(20)
    bucket.pour(store)
    folder = uri.removesuffix(keys.MANIFEST_NAME)
    assert document("pin", folder, "--reason", "for the paper")["pin"]["reason"] == "for the paper"
    again = run("pin", folder)
    assert "pinned since" in again.stderr
    assert document("show", uri)["pin"]["reason"] == "for the paper", "no reason replaces none"
    store.put(keys.pin_uri(uri), b"damaged")
    assert document("show", uri)["pin"]["reason"] == "", "a pin that cannot be read pins all the same"
    assert document("unpin", folder) == {"uri": uri, "pin": None}
    assert document("show", uri)["pin"] is None
    assert "had no pin" in run("unpin", folder).stderr
    too_long = run("pin", folder, "--reason", "x" * 1001, code=2)
    assert "1001 characters, and may have 1000" in too_long.stderr
    assert "does not exist" in run("pin", f"{bucket.storage}/nowhere", code=10).stderr


def test_a_checkpoint_is_copied_as_it_is(bucket: Bucket, store: ObjectStore, tmp_path: Path) -> None:
    uri = bucket.checkpoint(20)
    bucket.pour(store)
    copied = document("copy", uri, str(tmp_path / "copy"))
    assert names(tmp_path / "copy") == {keys.MANIFEST_NAME, *SHARDS}
    mine, original = (Manifest.from_bytes(store.read(place)) for place in (copied["uri"], uri))
    assert mine.copied_from == ManifestRef(uri=uri, sha256=document("show", uri)["sha256"])
    assert [(each.key, each.sha256, each.components) for each in mine.objects] == [
        (each.key, each.sha256, each.components) for each in sorted(original.objects, key=lambda stored: stored.key)
    ]
    assert document("verify", copied["uri"])["problems"] == []
    assert "copied before" in run("copy", uri, str(tmp_path / "copy")).stderr


def test_of_a_component_only_the_objects_that_it_needs_are_copied(
    bucket: Bucket, store: ObjectStore, tmp_path: Path
) -> None:
    uri = bucket.checkpoint(20)
    bucket.pour(store)
    offer = document("publish", uri, "--component", "vision")["uri"]
    copied = document("copy", offer, str(tmp_path / "vit"))
    assert names(tmp_path / "vit") == {keys.MANIFEST_NAME, ".metadata", "vision__0_0.distcp", "published/vision.json"}
    assert copied["published"]["vision"]["uri"] == f"file://{tmp_path}/vit/published/vision.json"
    mine = ComponentManifest.from_bytes(store.read(copied["published"]["vision"]["uri"]))
    assert mine.source == ManifestRef(uri=copied["uri"], sha256=copied["sha256"])
    assert mine.lineage == ComponentManifest.from_bytes(store.read(offer)).lineage, "a copy is not another training"
    source = verify.open_source(store, Component.VISION, ManifestRef(**copied["published"]["vision"]))
    assert set(source.manifest.components) == {"vision", "state"}
    assert copied == document("copy", uri, str(tmp_path / "vit"), "--component", "vision") | {
        key: copied[key] for key in ("seconds",)
    }


def test_the_copy_of_a_copy_names_the_checkpoint_that_was_trained(
    bucket: Bucket, store: ObjectStore, tmp_path: Path
) -> None:
    uri = bucket.checkpoint(20)
    bucket.pour(store)
    first = document("copy", uri, str(tmp_path / "first"))
    second = document("copy", first["uri"], str(tmp_path / "second"), "--component", "vision")
    assert Manifest.from_bytes(store.read(second["uri"])).copied_from.uri == uri
    offer = ComponentManifest.from_bytes(store.read(second["published"]["vision"]["uri"]))
    assert [link.manifest.uri for link in offer.lineage] == [uri]


def test_a_copy_refuses_what_is_taken(bucket: Bucket, store: ObjectStore, tmp_path: Path) -> None:
    uri, other = bucket.checkpoint(20), bucket.checkpoint(30)
    bucket.pour(store)
    folder = tmp_path / "copy"
    run("copy", uri, str(folder), "--component", "vision")
    assert "another part of this one" in run("copy", uri, str(folder), code=22).stderr
    assert "another checkpoint already" in run("copy", other, str(folder), code=22).stderr
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").touch()
    assert "a.txt among them" in run("copy", uri, str(tmp_path / "notes"), code=22).stderr
    elsewhere = run("copy", uri, f"{tmp_path}/x/stage1/step-00000030/a1", code=2)
    assert "of step 20, expected step 30" in elsewhere.stderr
    offer = keys.published_by_hand_uri(f"file://{folder}/{keys.MANIFEST_NAME}", Component.VISION)
    assert "leave --component out" in run("copy", offer, str(tmp_path / "y"), "--component", "vision", code=2).stderr


def test_a_copy_that_ended_early_goes_on(
    bucket: Bucket, store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = bucket.checkpoint(20)
    bucket.pour(store)
    folder = tmp_path / "copy"

    def dies(*_: object) -> None:
        raise StoreUnavailableError("the store did not answer")

    for where in ("confirm", "put_manifest"):
        with monkeypatch.context() as patch:
            patch.setattr(copying.commit, where, dies)
            run("copy", uri, str(folder), "--component", "vision", code=20)
        assert names(folder) == {".metadata", "vision__0_0.distcp"}
    with monkeypatch.context() as patch:
        patch.setattr(copying, "put_offer", dies)
        run("copy", uri, str(folder), "--component", "vision", code=20)
    assert keys.MANIFEST_NAME in names(folder)
    run("copy", uri, str(folder), "--component", "vision")
    assert "published/vision.json" in names(folder)


def test_a_damaged_source_is_never_committed_as_a_copy(bucket: Bucket, store: ObjectStore, tmp_path: Path) -> None:
    uri = bucket.checkpoint(20)
    bucket.pour(store)
    store.put(uri.replace(keys.MANIFEST_NAME, "vision__0_0.distcp"), b"xyz")
    result = run("copy", uri, str(tmp_path / "copy"), code=10)
    assert "DigestMismatch" in result.stderr
    assert keys.MANIFEST_NAME not in names(tmp_path / "copy")


def test_scratch_holds_two_groups_of_objects_at_most(
    bucket: Bucket, store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = bucket.checkpoint(20)
    bucket.pour(store)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(copying, "GROUP", 8)
    most = 0
    upload = copying._upload

    def watched(*arguments: Any) -> Any:
        nonlocal most
        most = max(most, sum(path.stat().st_size for path in scratch.rglob("*") if path.is_file()))
        return upload(*arguments)

    monkeypatch.setattr(copying, "_upload", watched)
    copied = document("copy", uri, str(tmp_path / "copy"), "--scratch", str(scratch))
    assert document("verify", copied["uri"])["problems"] == []
    assert 0 < most <= 8 + 10, "a group, and the largest object alone"
    assert list(scratch.iterdir()) == []
