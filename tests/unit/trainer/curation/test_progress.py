"""How far the reading of data sets is: a bar on a terminal, lines elsewhere."""

import io
import time

import pytest
from rich.console import Console

from internvl_trainer.curation.progress import SECONDS_BETWEEN_LINES, watching
from internvl_trainer.data.index import Progress

pytestmark = pytest.mark.unit


def test_a_terminal_gets_a_bar() -> None:
    written = io.StringIO()
    console = Console(file=written, force_terminal=True, width=120, color_system=None)
    with watching(console, ["a", "b"]) as tell:
        tell(Progress("b", 4_000_000, 8_000_000, 1000, 0))
    assert "b (2 of 2)" in written.getvalue()
    assert "4.0/8.0 MB" in written.getvalue()
    assert "samples/s" in written.getvalue()


def test_a_log_gets_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    written = io.StringIO()
    with watching(Console(file=written, force_terminal=False, width=40), ["a"]) as tell:
        for done in range(1, 101):
            now += SECONDS_BETWEEN_LINES / 4
            tell(Progress("a", done * 1_000_000, 100_000_000, done * 500, 0))
    lines = written.getvalue().splitlines()
    assert len(lines) == 20
    assert lines[0].startswith("a (1 of 1): 5.0 MB of 100.0 MB (5%), 200 samples/s")
    assert lines[-1] == "a (1 of 1): 100.0 MB of 100.0 MB (100%), 200 samples/s"
