"""Verified transfer, sources of components, and the command, on checkpoints in a folder."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

import pytest
from click.testing import CliRunner

from internvl_trainer.checkpoint import verify
from internvl_trainer.checkpoint.cli import checkpoint
from internvl_trainer.checkpoint.errors import InvalidCheckpointError
from internvl_trainer.checkpoint.transfer import Transfers, Wanted
from internvl_trainer.contract import keys
from internvl_trainer.contract.base import Component
from internvl_trainer.contract.gate import Expected, Verdict
from internvl_trainer.contract.manifest import (
    ComponentManifest,
    DrawnWeights,
    ImportedWeights,
    Manifest,
    ManifestRef,
    StoredObject,
)
from internvl_trainer.storage import ObjectNotFoundError, ObjectStore, open_store
from tests.unit.contract.examples import manifest

pytestmark = pytest.mark.unit


class Written:
    """A committed checkpoint of two small objects."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "store"
        self.store: ObjectStore = open_store()
        shards = folder / "shards"
        (shards / "below").mkdir(parents=True)
        (shards / "__0_0.distcp").write_bytes(b"abc")
        (shards / "below" / "metrics.jsonl").write_bytes(b"{}")
        prefix = keys.checkpoint_prefix(str(self.root), "uid-1", "stage1", 2, 1)
        files = {path.relative_to(shards).as_posix(): path for path in shards.rglob("*") if path.is_file()}
        with Transfers(self.store) as transfers:
            objects = transfers.upload(files, prefix)
        self.uri = prefix + keys.MANIFEST_NAME
        self.manifest = manifest(objects=tuple(objects))
        self.ref = self.put(self.uri, self.manifest)

    def put(self, uri: str, document: Manifest | ComponentManifest) -> ManifestRef:
        self.store.put_if_absent(uri, document.to_bytes())
        return ManifestRef(uri=uri, sha256=hashlib.sha256(document.to_bytes()).hexdigest())

    def fetch(self, objects: Iterable[StoredObject], folder: Path) -> None:
        with Transfers(self.store) as transfers:
            transfers.download(self.uri, [Wanted.whole(stored) for stored in objects], folder)

    def judged(self, *, read_all: bool = False) -> Verdict:
        verdict, _ = verify.judge(self.store, self.uri, Expected())
        return verify.read_all(self.store, self.uri, verdict) if read_all else verdict

    def damage(self, key: str, content: bytes) -> None:
        Path(self.uri).with_name(key).write_bytes(content)

    def offer(self, **changes: object) -> ComponentManifest:
        offer = ComponentManifest(
            component=Component.VISION,
            source=self.ref,
            run=self.manifest.run,
            stage="stage1",
            attempt=1,
            step=2,
            created_at=self.manifest.created_at,
            vision=self.manifest.model.vision,
            tensors=("vision_model.x",),
        )
        return offer.model_copy(update=changes)


@pytest.fixture
def written(tmp_path: Path) -> Written:
    return Written(tmp_path)


def test_uploaded_keys_are_relative_to_the_folder(written: Written) -> None:
    assert [stored.key for stored in written.manifest.objects] == ["__0_0.distcp", "below/metrics.jsonl"]


def test_sound_objects_are_downloaded(written: Written, tmp_path: Path) -> None:
    written.fetch(written.manifest.objects, tmp_path / "down")
    assert (tmp_path / "down" / "below" / "metrics.jsonl").read_bytes() == b"{}"


def test_a_download_lists_every_bad_object(written: Written, tmp_path: Path) -> None:
    written.damage("__0_0.distcp", b"xyz")
    Path(written.uri).with_name("below").joinpath("metrics.jsonl").unlink()
    with pytest.raises(InvalidCheckpointError, match=r"DigestMismatch: .*__0_0.*; MissingObject: .*metrics"):
        written.fetch(written.manifest.objects, tmp_path / "down")


def test_an_unsafe_key_is_never_written(written: Written, tmp_path: Path) -> None:
    (stored, _) = written.manifest.objects
    escape = stored.model_copy(update={"key": "../escaped"})
    with pytest.raises(InvalidCheckpointError, match="UnsafeKey"):
        written.fetch([escape], tmp_path / "down")
    assert not (tmp_path / "escaped").exists()


def test_a_listing_finds_a_truncated_object_and_only_reading_finds_a_changed_one(written: Written) -> None:
    written.damage("__0_0.distcp", b"xyz")
    assert written.judged().passed
    (problem,) = written.judged(read_all=True).problems
    assert problem.reason == "DigestMismatch"
    written.damage("__0_0.distcp", b"x")
    (problem,) = written.judged().problems
    assert problem.reason == "SizeMismatch"


def test_a_component_can_come_from_a_checkpoint_or_from_its_offer(written: Written) -> None:
    offered = written.put(f"{written.root}/uid-1/stage1/published/a1/vision.json", written.offer())
    for ref in (written.ref, offered):
        assert verify.open_source(written.store, Component.VISION, ref) == (written.ref, written.manifest)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"sha256": "0" * 64}, "ManifestDigestMismatch"),
        ({"uri": "/nowhere/MANIFEST.json"}, "does not exist"),
    ],
)
def test_a_reference_to_something_else_is_refused(written: Written, changes: dict[str, str], reason: str) -> None:
    with pytest.raises(InvalidCheckpointError, match=reason):
        verify.open_source(written.store, Component.VISION, written.ref.model_copy(update=changes))


def test_a_manifest_without_a_reference_leads_to_the_checkpoint_too(written: Written) -> None:
    offered = written.put(f"{written.root}/uid-1/stage1/published/a1/vision.json", written.offer())
    for uri in (written.uri, offered.uri):
        assert verify.open_any(written.store, uri) == (written.ref, written.manifest)
    stale = written.ref.model_copy(update={"sha256": "0" * 64})
    replaced = written.put(f"{written.root}/replaced.json", written.offer(source=stale))
    with pytest.raises(InvalidCheckpointError, match="ManifestDigestMismatch"):
        verify.open_any(written.store, replaced.uri)


def test_an_offer_of_another_component_is_refused(written: Written) -> None:
    offered = written.put(f"{written.root}/offer.json", written.offer(component=Component.LANGUAGE))
    with pytest.raises(InvalidCheckpointError, match="WrongComponent"):
        verify.open_source(written.store, Component.VISION, offered)


def test_an_offer_whose_source_was_replaced_is_refused(written: Written) -> None:
    stale = written.ref.model_copy(update={"sha256": "0" * 64})
    offered = written.put(f"{written.root}/offer.json", written.offer(source=stale))
    with pytest.raises(InvalidCheckpointError, match="ManifestDigestMismatch"):
        verify.open_source(written.store, Component.VISION, offered)


def test_a_checkpoint_without_the_component_is_refused(written: Written) -> None:
    with pytest.raises(InvalidCheckpointError, match="holds no tensor of component language"):
        verify.open_source(written.store, Component.LANGUAGE, written.ref)


def test_a_missing_manifest_is_not_found(written: Written) -> None:
    with pytest.raises(ObjectNotFoundError):
        verify.judge(written.store, f"{written.root}/none/MANIFEST.json", Expected())


def test_ls_shows_committed_checkpoints(written: Written) -> None:
    result = CliRunner().invoke(checkpoint, ["ls", str(written.root), "--output", "json"])
    (row,) = json.loads(result.stdout)
    assert (row["uri"], row["sha256"]) == (written.uri, written.ref.sha256)
    assert (row["stage"], row["step"], row["final"], row["bytes"]) == ("stage1", 2, True, 5)
    table = CliRunner().invoke(checkpoint, ["ls", f"{written.root}/uid-1"], env={"COLUMNS": "160"}).stdout
    assert "default/first" in table
    assert "2/2 final" in table


def test_ls_of_an_empty_place_says_so(tmp_path: Path) -> None:
    result = CliRunner().invoke(checkpoint, ["ls", str(tmp_path)])
    assert (result.exit_code, result.stdout) == (0, "")
    assert "no committed checkpoint" in result.stderr


def test_show_tells_what_a_checkpoint_is(written: Written) -> None:
    result = CliRunner().invoke(checkpoint, ["show", written.uri], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    for fact in ("tiny-1b-like", "2 of 2, final", "2.0000 -> 1.0000", "below/metrics.jsonl", "verified"):
        assert fact in result.stdout


def test_show_takes_a_checkpoints_folder_as_export_does(written: Written) -> None:
    folder = written.uri.removesuffix("MANIFEST.json")
    by_folder, by_manifest = (CliRunner().invoke(checkpoint, ["show", place]) for place in (folder, written.uri))
    assert (by_folder.exit_code, by_folder.stdout) == (0, by_manifest.stdout)


def test_into_a_pipe_no_line_is_broken_however_long_a_key_is(written: Written) -> None:
    table = CliRunner().invoke(checkpoint, ["ls", str(written.root)], env={"COLUMNS": "40"}).stdout
    assert len(table.splitlines()) == 2
    assert written.uri.removeprefix(f"{written.root}/") in table


def test_verify_ends_with_the_trainers_exit_code_for_a_bad_checkpoint(written: Written) -> None:
    written.damage("__0_0.distcp", b"xyz")
    result = CliRunner().invoke(checkpoint, ["verify", written.uri, "-o", "json"])
    assert result.exit_code == 10
    shown = json.loads(result.stdout)
    assert [problem["reason"] for problem in shown["problems"]] == ["DigestMismatch"]
    assert shown["uri"] == written.uri


def test_show_of_nothing_is_an_error_without_a_traceback(tmp_path: Path) -> None:
    result = CliRunner().invoke(checkpoint, ["show", str(tmp_path / "MANIFEST.json")])
    assert result.exit_code == 10
    assert "does not exist" in result.stderr


def test_an_import_shows_its_source_where_training_would_show_a_loss(tmp_path: Path) -> None:
    imported = manifest(
        stage="import",
        step=0,
        total_steps=0,
        trainable=(),
        objects=(),
        loss=None,
        imported={
            Component.VISION: ImportedWeights(uri="s3://models/InternVL2_5-1B", sha256="e" * 64),
            Component.PROJECTOR: DrawnWeights(seed=7),
        },
    )
    uri = f"{tmp_path}/weights/MANIFEST.json"
    open_store().put_if_absent(uri, imported.to_bytes())

    rows = json.loads(CliRunner().invoke(checkpoint, ["ls", str(tmp_path), "--output", "json"]).stdout)
    assert [(row["uri"], row["loss"], row["final"], row["problems"]) for row in rows] == [(uri, None, True, [])]
    table = CliRunner().invoke(checkpoint, ["ls", str(tmp_path)], env={"COLUMNS": "160"}).stdout
    assert "weights/MANIFEST.json" in table
    shown = CliRunner().invoke(checkpoint, ["show", uri], env={"COLUMNS": "200"}).stdout
    assert "vision imported from" in shown
    assert f"s3://models/InternVL2_5-1B (sha256 of config and index {'e' * 16})" in shown
    assert "drawn at random from seed 7" in shown
    assert "not trained here" in shown
