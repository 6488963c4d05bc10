"""What a person sees: the log scrolls by, and progress stays in one line at the bottom."""

import io
from datetime import UTC, datetime

import pytest
from rich.console import Console

from internvl_trainer.contract.progress import ProgressReport
from internvl_trainer.launch.terminal import on_terminal
from internvl_trainer.train import live

pytestmark = pytest.mark.unit


def report(step: int) -> bytes:
    status = ProgressReport(
        run_uid="uid", stage="stage2", attempt=1, step=step, total_steps=50, loss=2.5, tokens_per_second=1234.0,
        tiles_per_second=56.7, padding=0.125, eta_seconds=61, reported_at=datetime.now(UTC),
    )  # fmt: skip
    return live.record(status).encode().rstrip(b"\n")


def shown(*lines: bytes, width: int = 120) -> str:
    """The raw stream to a terminal of some width, control sequences included."""
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=width, color_system=None, legacy_windows=False)
    with on_terminal(console) as output:
        output.show("rank 0", lines)
    return stream.getvalue()


def test_the_progress_line_has_step_loss_rates_padding_and_time_left() -> None:
    stream = shown(report(7))
    assert "step 7/50  loss 2.5000  1,234 tok/s  56.7 tiles/s  padding 12.5 %  eta 0:01:01" in stream


def test_it_fits_a_terminal_of_eighty_columns() -> None:
    assert "padding 12.5 %  eta 0:01:01" in shown(report(7), width=80)


def test_reports_replace_each_other_and_log_lines_stay_above() -> None:
    stream = shown(report(1), b"a [bold]word[/bold]", report(2))
    assert "[rank 0] a [bold]word[/bold]\n" in stream
    first, second = stream.index("step 1/50"), stream.rindex("step 2/50")
    assert "\r\x1b[2K" in stream[first:second], "the line is erased before it is written again"


def test_bytes_that_are_no_text_do_no_harm() -> None:
    assert "caf\N{REPLACEMENT CHARACTER}" in shown(b"caf\xe9")
