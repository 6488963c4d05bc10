"""How many processors may be used: by affinity, and by a container's limit."""

import os
from pathlib import Path

import pytest

from internvl_trainer.processes.processors import usable_processors

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("limit", "expected"),
    [(None, 16), ("max 100000\n", 16), ("400000 100000\n", 4), ("150000 100000\n", 1), ("5000 100000\n", 1)],
)
def test_the_smaller_of_both_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str | None, expected: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(16)))
    if limit is not None:
        (tmp_path / "cpu.max").write_text(limit)
    assert usable_processors(tmp_path / "cpu.max") == expected
