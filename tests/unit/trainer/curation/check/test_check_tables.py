"""What a check says on a terminal."""

from typing import Any

import pytest
from rich.console import Console

from internvl_trainer.curation.check.document import CheckedSource, CheckReport, Fault
from internvl_trainer.curation.check.tables import tables
from internvl_trainer.curation.estimate import Fill

pytestmark = pytest.mark.unit

FILL = Fill(
    packs=1200, samples=6000, tokens=1, tiles=1, token_fill=0.9, tile_fill=0.5, packs_bound=1100, exact=False,
    global_batch=512, replicas=8, steps=1200 / 512,
)  # fmt: skip


def fault(line: int, reason: str) -> Fault:
    detail = "image a.jpg cannot be decoded: truncated"
    return Fault(source="shapes", file="s3://data/shapes.jsonl", line=line, id=7, reason=reason, detail=detail)


def said(**fields: Any) -> str:
    shapes = CheckedSource(
        name="shapes", annotation="s3://data/shapes.jsonl", samples=1000, bad={"image unreadable": 20}, warnings={},
        kinds={}, tokens=1, tiles=2, within_budget=False,
    )  # fmt: skip
    report = CheckReport(
        **{
            "data": "meta.json", "model": "InternVL2_5-8B", "complete": True, "pixels": True, "max_bad_fraction": 0.01,
            "problems": [], "sources": [shapes], "first_bad": [fault(17, "image unreadable")], "first_warnings": [],
            "bad_file": "bad.jsonl", "tiles_decoded": 12345, "seconds": 10.0, "workers": 8, "estimate": FILL,
        } | fields
    )  # fmt: skip
    console = Console(width=300)
    with console.capture() as captured:
        console.print(*tables(report), sep="\n")
    return captured.get()


def test_each_bad_sample_is_told_with_file_and_line() -> None:
    assert "s3://data/shapes.jsonl:17: image a.jpg cannot be decoded: truncated" in said()


def test_an_epoch_is_told_in_packs_and_steps() -> None:
    assert "about 1,200 packs, 2.3 steps of 512 packs (64 per replica); 5.00 samples in a pack" in said()
    assert "packs; 5.00 samples" in said(estimate=FILL.model_copy(update={"global_batch": None, "steps": None}))


def test_the_verdict_is_the_last_word() -> None:
    (*_, last) = said().strip().splitlines()
    assert last == "Within the budget of 1.00 %."
    (*_, counts, last) = said(problems=["data set 'shapes' holds no sample"]).strip().splitlines()
    assert last == "A stage would not begin: data set 'shapes' holds no sample."
    assert counts.endswith("12,345 tiles decoded: 20 bad, all of them in bad.jsonl.")
    assert said(complete=False, estimate=None).strip().splitlines()[-1] == "Not everything was read."
