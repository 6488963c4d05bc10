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
