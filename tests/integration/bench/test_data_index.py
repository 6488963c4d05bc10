"""The benchmark of the index runs, and what it shows holds at a smaller size: rows are mapped, not loaded."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench.data.index import index
from tests.unit.trainer.data.world import GOLDEN

pytestmark = pytest.mark.integration


def test_a_large_index_takes_no_memory_of_its_own(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    sizes = ["--lines", "300", "--rows", "4000000", "--reads", "20000", "--processes", "1"]
    tokenizer = ["--tokenizer", str(GOLDEN / "qwen2_5_subset")]

    result = CliRunner().invoke(index, [*tokenizer, *sizes, "--json", str(figures)])

    assert result.exit_code == 0, result.output
    found = json.loads(figures.read_text())
    assert found["opened"]["disk_mib"] == pytest.approx(4_000_000 * 24 / 2**20)
    assert found["opened"]["private_mib"] < 8, "96 MB of rows stay in the page cache"
    assert [each["lines"] for each in found["built"]] == [300]
