"""`internvl data index`: what it prints, and what its exit code says."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from internvl_trainer.contract.exit_codes import ExitCode
from internvl_trainer.curation.cli import data
from tests.unit.trainer.data.world import GOLDEN, image_record, text_record

pytestmark = pytest.mark.unit


@pytest.fixture
def meta(tmp_path: Path) -> Path:
    """Two data sets: one of text, one of an image and a broken line."""
    records: dict[str, list[Any]] = {
        "text": [text_record(1), text_record(2)],
        "images": [image_record(3, "a.png", 448, 448), "{broken"],
    }
    for name, lines in records.items():
        texts = (line if isinstance(line, str) else json.dumps(line) for line in lines)
        (tmp_path / f"{name}.jsonl").write_text("\n".join(texts))
    path = tmp_path / "meta.json"
    path.write_text(json.dumps({name: {"annotation": f"{name}.jsonl"} for name in records}))
    return path


def run(meta: Path, *options: str) -> Result:
    tokenizer = str(GOLDEN / "qwen2_5_subset")
    cache = str(meta.with_name("cache"))
    return CliRunner().invoke(data, ["index", str(meta), "--tokenizer", tokenizer, "--cache", cache, *options])


def test_the_table_has_a_row_for_each_data_set_and_the_sum(meta: Path) -> None:
    first, second = run(meta, "--set", "max_bad_fraction=0.5"), run(meta, "--set", "max_bad_fraction=0.5")
    assert (first.exit_code, second.exit_code) == (0, 0), first.output
    head, text, images, total = first.stdout.splitlines()
    assert head.split() == ["DATA", "SET", "SAMPLES", "BAD", "TOKENS", "TILES", "SIZE", "INDEX"]
    assert text.split()[:3] == ["text", "2", "0"]
    assert text.split()[-1] == "built"
    assert images.split()[:3] == ["images", "2", "1"]
    assert total.split()[:3] == ["all", "4", "1"]
    assert second.stdout == first.stdout.replace("built", "found")


def test_progress_is_told_in_plain_lines_where_there_is_no_terminal(meta: Path) -> None:
    told = run(meta, "--set", "max_bad_fraction=0.5").stderr
    assert [line.split(":")[0] for line in told.splitlines()] == ["text (1 of 2)", "images (2 of 2)"]
    assert "(100%)" in told
    assert run(meta, "--set", "max_bad_fraction=0.5").stderr == "", "nothing is read where indexes are found"


def test_json_has_the_facts(meta: Path) -> None:
    text, images = json.loads(run(meta, "--set", "max_bad_fraction=0.5", "--output", "json").stdout)
    assert (text["source"], text["samples"], text["bad"], text["built"]) == ("text", 2, 0, True)
    assert (images["kinds"], images["reasons"], images["tiles"]) == ({"single_image": 1}, {"malformed record": 1}, 1)
    assert len(images["digest"]) == 64
    (bad,) = map(json.loads, Path(images["bad_samples"]).read_text().splitlines())
    assert list(bad) == ["source", "line", "id", "reason", "detail"]
    assert (bad["source"], bad["line"], bad["reason"]) == ("images", 2, "malformed record")


def test_too_many_bad_samples_end_with_two_after_the_table(meta: Path) -> None:
    result = run(meta)
    assert result.exit_code == ExitCode.INVALID_CONFIG
    assert "all" in result.stdout
    assert "data set 'images': 1 of 2 samples are unusable, limit 1%" in result.stderr
    assert "bad.jsonl" in result.stderr


def test_a_folder_that_keeps_indexes_may_be_a_path(meta: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(meta.parent)
    assert run(meta, "--set", "index=kept", "--set", "max_bad_fraction=0.5").exit_code == 0
    assert len(list(meta.with_name("kept").glob("*.json"))) == 2


def test_a_missing_annotation_is_named(meta: Path) -> None:
    meta.with_name("text.jsonl").unlink()
    result = run(meta)
    assert result.exit_code == ExitCode.INVALID_CONFIG
    assert "text.jsonl does not exist; correct the meta JSON" in result.output


def test_a_cache_that_cannot_be_written_is_told(meta: Path) -> None:
    # The meta JSON is a file, in which no folder can be made.
    result = run(meta, "--cache", f"{meta}/cache")
    assert result.exit_code == ExitCode.INVALID_CONFIG
    assert f"{meta}/cache" in result.output
    assert f"this command writes to --cache ({meta}/cache)" in result.output
