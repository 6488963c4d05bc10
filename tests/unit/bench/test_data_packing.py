"""The benchmarks of packing and resuming, in small: they run, and what they count adds up."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from bench.data.mixes import MIXES
from bench.data.packing import balance, packing
from bench.data.resume import resume, write_rows
from internvl_trainer.data.index import ROW

pytestmark = pytest.mark.unit


def test_packing_is_compared_on_every_mix(tmp_path: Path) -> None:
    result = CliRunner().invoke(
        packing, ["--samples", "512", "--global-batch", "24", "--json", str(tmp_path / "found.json")]
    )

    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "found.json").read_text())
    assert {fill["mix"] for fill in found["fill"]} == set(MIXES)
    for fill in found["fill"]:
        assert fill["over_bound"] >= 1
        assert max(fill["token_fill"], fill["tile_fill"]) == pytest.approx(1 / fill["over_bound"])
    assert [entry["ranks"] for entry in found["balance"]] == [2, 3, 4, 6, 8, 12, 24]


def test_the_excess_of_the_busiest_rank_is_over_the_mean() -> None:
    assert [(entry.ranks, entry.in_order) for entry in balance([1, 1, 3, 3])] == [(2, 0.0), (4, 0.5)]


def test_resuming_is_compared_at_a_place_of_an_index(tmp_path: Path) -> None:
    result = CliRunner().invoke(
        resume, ["--rows", "20000", "--at", "9000", "--global-batch", "8", "--json", str(tmp_path / "found.json")]
    )

    assert result.exit_code == 0, result.output
    assert "at sample 9,000 of 20,000, 2 windows in" in result.output
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["ratio"] == pytest.approx(found["skipped"] / found["looked_up"])


def test_an_index_of_any_length_is_written(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows", 1234)

    rows = np.memmap(tmp_path / "rows", dtype=ROW, mode="r")

    assert len(rows) == 1234
    assert rows["tokens"].min() > 0
    assert not rows["reason"].any()
