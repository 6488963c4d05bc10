"""Files that options of `internvl data` name: refused before any work is done, or told of when a disk is full."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from internvl_trainer.contract.exit_codes import ExitCode
from internvl_trainer.curation.cli import data
from tests.unit.trainer.data.world import GOLDEN, text_record

pytestmark = pytest.mark.unit


def run(command: str, folder: Path, *options: str) -> Result:
    (folder / "a.jsonl").write_text(json.dumps(text_record(1)) + "\n{broken\n")
    (folder / "meta.json").write_text(json.dumps({"a": {"annotation": "a.jsonl"}}))
    place = [str(folder / "meta.json"), "--tokenizer", str(GOLDEN / "qwen2_5_subset"), "--cache", str(folder / "cache")]
    return CliRunner().invoke(data, [command, *place, *options])


@pytest.mark.parametrize(("command", "option"), [("check", "--bad"), ("report", "--picture")])
def test_a_file_in_a_folder_that_is_not_there_is_refused_at_once(tmp_path: Path, command: str, option: str) -> None:
    result = run(command, tmp_path, option, str(tmp_path / "nowhere" / "a.png"))
    assert result.exit_code == ExitCode.INVALID_CONFIG
    assert f"there is no folder {tmp_path}/nowhere; make it, or name another" in result.output.replace("\n", " ")
    assert not (tmp_path / "nowhere").exists()
    assert not (tmp_path / "cache").exists(), "nothing was read"


def test_a_picture_that_cannot_be_written_is_told_of_after_the_report(tmp_path: Path) -> None:
    (tmp_path / "full.png").symlink_to("/dev/full")
    result = run("report", tmp_path, "--picture", str(tmp_path / "full.png"))
    assert result.exit_code == ExitCode.INVALID_CONFIG
    assert "By data set" in result.stdout
    assert f"Error: cannot write {tmp_path}/full.png: no space left on device; free space or name" in result.stderr
