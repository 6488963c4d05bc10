"""Checkpoints in a folder: it has no ETags, so only the digests taken while downloading tell of damage."""

from pathlib import Path

import pytest

from internvl_trainer.contract.manifest import Manifest
from tests.integration.checkpoint import stories
from tests.integration.checkpoint.stories import LOG, Setting, run_story
from tests.integration.trainer.grid import on_ranks

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    return Setting(tmp_path, f"file://{tmp_path}/store")


def _path(uri: str) -> Path:
    return Path(uri.removeprefix("file://"))


def test_flipped_bits_make_resume_fall_back(setting: Setting) -> None:
    (saved,) = run_story(stories.saves, setting, [1, 2])
    victim = _path(saved["refs"][1].uri).with_name("optimizer__0_0.distcp")
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(bytes(content))
    (seen,) = run_story(stories.resumes, setting, 2)
    assert (seen["step"], seen["holds"]) == (1, True)
    assert "DigestMismatch: object optimizer__0_0.distcp" in seen[LOG]


def test_a_checkpoint_of_another_run_is_never_resumed(setting: Setting) -> None:
    (saved,) = run_story(stories.saves, setting, [1])
    path = _path(saved["refs"][0].uri)
    manifest = Manifest.from_bytes(path.read_bytes())
    theirs = manifest.run.model_copy(update={"uid": "uid-2"})
    path.write_bytes(manifest.model_copy(update={"run": theirs}).to_bytes())
    (seen,) = run_story(stories.resumes, setting, 2)
    assert seen["step"] == 0
    assert "WrongRun: the manifest belongs to run uid-2, expected uid-1" in seen[LOG]


def test_what_must_not_be_done_is_refused_by_name(setting: Setting) -> None:
    (said,) = run_story(stories.refuses, setting)
    assert said["no step"].startswith("NothingToSaveError: stage twice has trained no step yet")
    assert said["not final"].startswith("NotFinalError: ")
    assert "is of step 1 of 2; publish the last one" in said["not final"]
    assert said["other tokens"].startswith("CheckpointConflictError: ")
    assert "attempt 1 runs twice" in said["other tokens"]
    assert said["damaged"].startswith("CheckpointConflictError: ")
    assert "MissingObject: object .metadata" in said["damaged"]
    assert "start it with a new number" in said["damaged"]
    assert said["other batch"].startswith("DataPositionError: ")
    assert "4 packs in 1 steps, but at this job's global batch of 8 they are 8" in said["other batch"]
    assert "spec.weights names this manifest" in said["other batch"]
    assert said["rival"].startswith("CheckpointConflictError: ")
    assert said["lost answer"].startswith("done: ")


def test_a_slow_upload_outlasts_the_patience_of_trainings_own_group() -> None:
    first, second = on_ranks(2, stories.waits_for_a_slow_upload)
    assert first["uploads"] == second["uploads"] == ["node 0", "node 1"]
    assert "imed out" in first["training"], "that group still notices a peer that does not come"


def test_each_node_downloads_only_what_it_needs(setting: Setting) -> None:
    first, second = run_story(stories.each_node_fetches_its_own, setting, nodes=2)
    assert first["holds"]
    assert second["holds"]
    for_all = (".metadata", "metadata.json", "state__0_0.distcp")
    assert first["downloads"] == sorted(
        [
            *for_all,
            "metrics.jsonl",
            *(f"{component}__0_0.distcp" for component in ("language", "optimizer", "projector", "vision")),
        ]
    )
    assert second["downloads"] == sorted([*for_all, "language__1_0.distcp", "optimizer__1_0.distcp"])
