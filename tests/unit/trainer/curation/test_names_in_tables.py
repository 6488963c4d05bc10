"""Names of data sets are theirs: brackets are no markup, and a long one takes no number its room."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from internvl_trainer.curation.cli import data
from tests.unit.trainer.data.world import GOLDEN, text_record

pytestmark = pytest.mark.unit

NAME = "[red]a [/x] $b_c$ " + "long " * 12


@pytest.mark.parametrize("command", ["index", "report"])
def test_a_name_with_brackets_is_shown_as_it_is_and_no_number_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setattr("internvl_trainer.checkpoint.cli.PIPE_WIDTH", 80)
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(text_record(number)) + "\n" for number in range(1234)))
    (tmp_path / "meta.json").write_text(json.dumps({NAME: {"annotation": "a.jsonl"}}))
    places = ["--tokenizer", str(GOLDEN / "qwen2_5_subset"), "--cache", str(tmp_path / "cache")]
    picture = ["--picture", str(tmp_path / "a.png")] if command == "report" else []
    result = CliRunner().invoke(data, [command, str(tmp_path / "meta.json"), *places, *picture])
    assert result.exit_code == 0, result.output
    assert "[red]a [/x]" in result.stdout
    assert "1,234" in result.stdout
    assert "…" not in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80
