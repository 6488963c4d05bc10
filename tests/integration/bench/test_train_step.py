"""The training benchmark runs where there is no accelerator, and its figures belong together."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from internvl_trainer.contract.catalog import get

pytestmark = pytest.mark.integration

SIZE = ["--pack-tokens", "256", "--pack-tiles", "6", "--sample-tokens", "64", "--precision", "fp32"]


def test_both_contenders_train_the_same_packs_and_are_told_apart(tmp_path: Path) -> None:
    figures, trace = tmp_path / "figures.json", tmp_path / "trace.json"
    subprocess.run(
        [
            *(sys.executable, "-m", "bench.train_step", "--model", "tiny-1b-like", "--steps", "2", "--peer-batch", "2"),
            *SIZE,
            *("--peak-tflops", "0.1", "--json", str(figures), "--profile", str(trace)),
        ],
        check=True,
        timeout=150,
        cwd=Path(__file__).parents[3],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    found = json.loads(figures.read_text())
    assert (found["tokens_per_step"], found["tiles_per_step"], found["samples_per_step"]) == (256, 6, 4)
    ours, peer = found["rows"]
    assert (ours["name"], peer["name"], peer["tokens_ratio"]) == ("internvl-trainer", "transformers, batch 2", 1.0)
    for row in (ours, peer):
        assert row["tokens_per_second"] == pytest.approx(256 / row["seconds_per_step"])
        assert 0 < row["mfu_supervised_head"] < row["mfu"] < 1
    uniform = 7.6  # ln of the vocabulary
    assert get("tiny-1b-like").language.vocab_size == 2048
    assert ours["first_loss"] == pytest.approx(uniform, abs=0.5)
    assert peer["first_loss"] == pytest.approx(uniform, abs=0.5), "the peer learns the same supervised tokens"
    assert "traceEvents" in json.loads(trace.read_text())
    assert trace.with_suffix(".peer-1.json").exists()
