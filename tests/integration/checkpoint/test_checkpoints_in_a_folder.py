"""A folder has no ETags: there, only the digests taken while downloading can tell that an object was damaged."""

from pathlib import Path

import pytest

from internvl_trainer.contract import keys
from tests.integration.checkpoint.jobs import run_story

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


def test_flipped_bits_make_resume_fall_back(tmp_path: Path) -> None:
    settings = {"storage": f"file://{tmp_path}/store"}
    (saved,) = run_story("saves", {**settings, "steps": [1, 2]}, tmp_path)
    manifest = Path(saved["refs"][1]["uri"].removeprefix("file://"))
    victim = manifest.with_name("optimizer__0_1.distcp")
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(bytes(content))
    assert run_story("resumes", {**settings, "attempt": 2}, tmp_path) == [{"step": 1, "holds": True}]

    manifest.with_name(keys.MANIFEST_NAME).unlink()
    first = Path(saved["refs"][0]["uri"].removeprefix("file://"))
    first.write_bytes(first.read_bytes().replace(b'"uid-1"', b'"uid-2"'))
    assert run_story("resumes", {**settings, "attempt": 2}, tmp_path) == [{"step": 0, "holds": True}]


def test_what_must_not_be_done_is_refused_by_name(tmp_path: Path) -> None:
    (said,) = run_story("refuses", {"storage": f"file://{tmp_path}/store"}, tmp_path)
    assert said["no step"].startswith("NothingToSaveError: stage empty has trained no step yet")
    assert said["not final"].startswith("NotFinalError: ")
    assert "is of step 1 of 2; publish the last one" in said["not final"]
    assert said["other tokens"].startswith("CheckpointConflictError: ")
    assert "attempt 1 runs twice" in said["other tokens"]
    assert said["rival"].startswith("CheckpointConflictError: ")
    assert said["lost answer"].startswith("done: ")


def test_each_node_downloads_only_what_it_needs(tmp_path: Path) -> None:
    first, second = run_story("each_node_fetches_its_own", {"storage": f"file://{tmp_path}/store"}, tmp_path, nodes=2)
    assert first["holds"]
    assert second["holds"]
    index = [".metadata", "metadata.json"]
    assert first["downloads"] == [*index[:1], "__0_0.distcp", *index[1:], "metrics.jsonl", "optimizer__0_1.distcp"]
    # Rank 0's file holds the state that is no tensor, which everybody reads.
    assert second["downloads"] == [
        *(".metadata", "__0_0.distcp", "__1_0.distcp", "metadata.json", "optimizer__1_1.distcp")
    ]
