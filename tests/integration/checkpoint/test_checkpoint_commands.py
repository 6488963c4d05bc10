"""`internvl checkpoint` against a real S3 server: a ViT goes to another bucket and run, and garbage is collected."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import boto3
import pytest
from click.testing import CliRunner, Result

from hack.cluster.object_store import ObjectStore as S3Server
from internvl_trainer.checkpoint.cli import checkpoint
from internvl_trainer.checkpoint.components import by_component, components_in
from internvl_trainer.checkpoint.transfer import Transfers
from internvl_trainer.contract import keys
from internvl_trainer.contract.manifest import Manifest, ManifestRef
from internvl_trainer.contract.object_digest import BLOCK_BYTES as BLOCK
from internvl_trainer.storage import ObjectStore, open_store
from tests.integration.checkpoint import command_stories, stories
from tests.integration.checkpoint.stories import Setting, run_story
from tests.unit.contract.examples import manifest
from tests.unit.trainer.checkpoint.bucket import Bucket

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

ELSEWHERE = "models"


@pytest.fixture(scope="module")
def client(s3_server: S3Server) -> Any:
    """The server as it is, with a second bucket."""
    client = boto3.session.Session().client("s3", endpoint_url=s3_server.endpoint)
    client.create_bucket(Bucket=ELSEWHERE)
    return client


@pytest.fixture
def store(s3_server: S3Server) -> ObjectStore:
    return open_store(endpoint_url=s3_server.endpoint)


@pytest.fixture
def internvl(s3_server: S3Server) -> "Internvl":
    return Internvl(s3_server)


class Internvl:
    """`internvl checkpoint`, at the server; whatever it says, it says no secret."""

    def __init__(self, server: S3Server) -> None:
        self._server = server

    def run(self, *arguments: str, code: int = 0) -> Result:
        result = CliRunner().invoke(checkpoint, [*arguments, "--endpoint-url", self._server.endpoint])
        assert result.exit_code == code, result.output
        assert self._server.secret_key not in result.output
        assert self._server.access_key not in result.output
        return result

    def document(self, *arguments: str, code: int = 0) -> Any:
        return json.loads(self.run(*arguments, "-o", "json", code=code).stdout)


def named(client: Any, bucket: str, prefix: str) -> set[str]:
    found = client.list_objects_v2(Bucket=bucket, Prefix=prefix).get("Contents", ())
    return {row["Key"].removeprefix(prefix) for row in found}


def test_a_vit_goes_by_hand_to_another_bucket_and_starts_a_run_there_at_another_layout(
    internvl: Internvl, client: Any, s3_server: S3Server, store: ObjectStore, tmp_path: Path
) -> None:
    setting = Setting(tmp_path, "s3://checkpoints/by-hand", s3_server.endpoint, s3_server.environment())
    (saved,) = run_story(stories.saves, setting, [1, 2])
    uri = saved["refs"][1].uri
    rows = internvl.document("ls", setting.storage)
    assert [(row["step"], row["final"], row["problems"]) for row in rows] == [(2, True, []), (1, False, [])]
    published = internvl.document("publish", uri, "--component", "vision", "--pin")
    copied = internvl.document("copy", published["uri"], f"s3://{ELSEWHERE}/vit")
    assert named(client, ELSEWHERE, "vit/") >= {keys.MANIFEST_NAME, ".metadata", "vision__0_0.distcp"}
    assert not {name for name in named(client, ELSEWHERE, "vit/") if name.startswith(("optimizer", "language"))}
    vit = copied["published"]["vision"]
    assert vit["uri"] == f"s3://{ELSEWHERE}/vit/published/vision.json"
    assert internvl.document("verify", vit["uri"])["problems"] == []
    assert uri in internvl.run("show", vit["uri"]).stdout, "the lineage names the checkpoint that was trained"

    # The first run's bucket is not needed any more.
    store.delete_all([info.uri for info in store.list(f"{setting.storage}/")])
    mine = dataclasses.replace(setting, storage=f"s3://{ELSEWHERE}/runs")
    seen = run_story(command_stories.starts_from_a_copied_vit, mine, ManifestRef(**vit), per_node=2)
    for each in seen:
        taken = {name for name, holds in each["taken"].items() if holds}
        assert taken == {"vision_model.patch.weight", "vision_model.norm.weight"}
        assert {name for name, holds in each["kept"].items() if holds} == set(each["kept"]) - taken
    second = Manifest.from_bytes(store.read(seen[0]["ref"].uri))
    assert [(link.run.uid, link.step, link.manifest) for link in second.vision_lineage] == [
        ("uid-1", 2, saved["refs"][1])
    ]


def test_a_run_keeps_what_its_policy_and_people_want_and_gc_finds_nothing_more(
    internvl: Internvl, s3_server: S3Server, tmp_path: Path
) -> None:
    setting = Setting(tmp_path, "s3://checkpoints/retention", s3_server.endpoint, s3_server.environment())
    (seen,) = run_story(command_stories.saves_and_lets_go, setting)
    rows = internvl.document("ls", setting.storage)
    assert [(row["step"], row["pinned"]) for row in rows] == [(5, False), (3, False), (1, True)]
    assert seen[stories.LOG].count("superseded") == 2
    assert internvl.document("gc", setting.storage, "--keep-last", "1", "--keep-every", "3")["findings"] == []


@pytest.fixture
def large(store: ObjectStore, tmp_path: Path) -> str:
    """A checkpoint with an object of several parts; the URI of its manifest."""
    folder = tmp_path / "large"
    folder.mkdir()
    (folder / "vision__0_0.distcp").write_bytes(os.urandom(2 * BLOCK + 7))
    (folder / ".metadata").write_bytes(b"index")
    (folder / "language__0_0.distcp").write_bytes(b"")
    prefix = keys.checkpoint_prefix(f"s3://checkpoints/{tmp_path.name}", "uid-1", "stage1", 2, 1)
    with Transfers(store) as transfers:
        sent = transfers.upload({path.name: path for path in folder.iterdir()}, prefix)
    objects = tuple(each.model_copy(update={"components": components_in(each.key)}) for each in sent)
    document = manifest(objects=objects, components=by_component(["vision_model.x", "language_model.x"]))
    store.put_if_absent(prefix + keys.MANIFEST_NAME, document.to_bytes())
    return prefix + keys.MANIFEST_NAME


def test_a_copy_between_stores_is_the_same_byte_for_byte(
    internvl: Internvl, large: str, store: ObjectStore, s3_server: S3Server, tmp_path: Path
) -> None:
    here, back = tmp_path / "here", f"s3://{ELSEWHERE}/{tmp_path.name}"
    down = internvl.document("copy", large, str(here), "--to-region", "us-east-1")
    assert (down["objects"], down["bytes"]) == (3, 2 * BLOCK + 12)
    up = internvl.document("copy", down["uri"], back, "--to-endpoint-url", s3_server.endpoint)
    original, copy = (Manifest.from_bytes(store.read(uri)) for uri in (large, up["uri"]))
    assert [(each.key, each.sha256, each.blocks) for each in copy.objects] == [
        (each.key, each.sha256, each.blocks) for each in original.objects
    ]
    assert all(each.etag for each in copy.objects)
    assert copy.copied_from is not None
    assert copy.copied_from.uri == large, "the copy of a copy is one of the first"
    assert internvl.document("verify", up["uri"])["problems"] == []
    assert f"{back}/.probe" not in [info.uri for info in store.list(back)]


def test_verify_finds_one_flipped_bit(internvl: Internvl, large: str, store: ObjectStore, tmp_path: Path) -> None:
    """Whoever has changed it has also changed its ETag; a disk that forgets has not."""
    found = Manifest.from_bytes(store.read(large))
    uri = large.replace(keys.MANIFEST_NAME, "vision__0_0.distcp")
    content = bytearray(store.read(uri))
    content[BLOCK + 1] ^= 1
    (tmp_path / "flipped").write_bytes(content)
    etag = store.upload(tmp_path / "flipped", uri).etag
    assert internvl.document("verify", large, code=10)["problems"][0]["reason"] == "ETagMismatch"
    objects = tuple(each.model_copy(update={"etag": etag if each.blocks else each.etag}) for each in found.objects)
    store.put(large, found.model_copy(update={"objects": objects}).to_bytes())
    assert internvl.document("verify", large, "--quick")["problems"] == []
    (problem,) = internvl.document("verify", large, code=10)["problems"]
    assert problem["reason"] == "DigestMismatch"
    result = internvl.run("copy", large, str(tmp_path / "copy"), code=10)
    assert "DigestMismatch: object vision__0_0.distcp" in result.stderr
    assert not (tmp_path / "copy" / keys.MANIFEST_NAME).exists()


def test_gc_removes_what_a_dead_attempt_has_left_and_nothing_of_the_living_one(
    internvl: Internvl, client: Any, store: ObjectStore, tmp_path: Path
) -> None:
    bucket = Bucket(f"s3://checkpoints/{tmp_path.name}")
    prefix = f"{tmp_path.name}/uid-1/stage1/"

    def begin_upload(name: str) -> str:
        upload = client.create_multipart_upload(Bucket="checkpoints", Key=prefix + name)["UploadId"]
        body = b"x" * 5 * 1024 * 1024
        client.upload_part(Bucket="checkpoints", Key=prefix + name, UploadId=upload, PartNumber=1, Body=body)
        return str(upload)

    for step in (10, 20, 30):
        bucket.checkpoint(step)
    bucket.shards(40)
    bucket.put(f"{bucket.storage}/data-index/abc.rows", b"rows")
    bucket.pour(store)
    begin_upload("step-00000040/a1/vision__1_0.distcp")
    internvl.run("pin", f"{bucket.storage}/uid-1/stage1/step-00000010/a1")
    assert internvl.document("gc", bucket.storage)["findings"] == [], "attempt 1 may be at work"

    second = Bucket(bucket.storage)
    second.attempt(2, (1, 0), (2, 30))
    second.shards(40, 2)
    second.pour(store)
    living = begin_upload("step-00000040/a2/vision__1_0.distcp")
    expected = [("superseded", 20, 1), ("orphans", 40, 1), ("upload", 40, 1)]
    found = internvl.document("gc", bucket.storage, "--keep-last", "1")
    assert [(each["kind"], each["step"], each["attempt"]) for each in found["findings"]] == expected
    removed = internvl.document("gc", bucket.storage, "--keep-last", "1", "--delete")["findings"]
    assert [each["removed"] for each in removed] == [True] * 3

    left = {name.rsplit("/", 1)[0] for name in named(client, "checkpoints", prefix)}
    assert left == {"step-00000010/a1", "step-00000030/a1", "step-00000040/a2", "attempts"}
    assert named(client, "checkpoints", f"{tmp_path.name}/data-index/") == {"abc.rows"}
    uploads = client.list_multipart_uploads(Bucket="checkpoints", Prefix=prefix).get("Uploads", [])
    assert [each["UploadId"] for each in uploads] == [living]
    assert internvl.document("gc", bucket.storage, "--keep-last", "1")["findings"] == []
    client.abort_multipart_upload(
        Bucket="checkpoints", Key=f"{prefix}step-00000040/a2/vision__1_0.distcp", UploadId=living
    )


def test_a_place_that_cannot_be_reached_ends_with_the_trainers_exit_code(internvl: Internvl, tmp_path: Path) -> None:
    assert "does not exist" in internvl.run("show", "s3://checkpoints/x", "--ca-file", "/nowhere.pem", code=2).stderr
    assert "cannot read s3://nowhere/x/MANIFEST.json" in internvl.run("verify", "s3://nowhere/x", code=10).stderr
    there_is_no = f"s3://nowhere/{tmp_path.name}"
    missing = internvl.run("copy", "s3://checkpoints/x", there_is_no, code=10)
    assert "s3://checkpoints/x/MANIFEST.json" in missing.stderr
