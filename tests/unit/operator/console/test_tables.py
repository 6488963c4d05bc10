"""The live table says of each stage what a person would ask, and a plain line says the same in a CI log."""

import pytest
from rich.console import Console

from internvl_operator.console.tables import live_table, message_of, plain_line, stage_rows, status_of

pytestmark = pytest.mark.unit

RUNNING = {
    "metadata": {"name": "demo"},
    "spec": {"stages": [{"name": "stage1", "steps": 30}, {"name": "stage2", "steps": 60}]},
    "status": {
        "phase": "Running",
        "conditions": [
            {
                "type": "Progressing", "status": "True", "reason": "StageRunning", "message": "stage2 attempt 2 runs",
                "lastTransitionTime": "2026-11-23T06:00:00Z",
            }
        ],
        "progress": {
            "stage": "stage2", "attempt": 2, "step": 15, "totalSteps": 60, "percent": 25, "steps": "15/60",
            "loss": "2.5", "tokensPerSecond": 1234, "eta": "45s", "etaSeconds": 45,
            "lastReportTime": "2026-11-23T06:01:00Z",
        },
        "stages": [
            {"name": "stage1", "state": "Succeeded", "attempt": 1, "steps": 30, "lastLoss": "3.1"},
            {"name": "stage2", "state": "Running", "attempt": 2},
        ],
    },
}  # fmt: skip


def test_the_running_stage_shows_the_newest_progress_and_a_finished_one_its_last_loss():
    finished, running = stage_rows(RUNNING)
    assert (finished.step, finished.loss, finished.eta) == (30, "3.1", "")
    assert (running.step, running.total_steps, running.loss, running.tokens_per_second) == (15, 60, "2.5", 1234)


def test_a_run_that_the_operator_has_not_seen_yet_is_shown_as_pending():
    fresh = {"metadata": {"name": "new"}, "spec": RUNNING["spec"]}
    assert [row.state for row in stage_rows(fresh)] == ["Pending", "Pending"]
    assert message_of(status_of(fresh)) == "not seen by the operator yet"


def test_the_table_fits_a_terminal_and_names_every_stage():
    console = Console(width=120, record=True, file=None, force_terminal=False)
    with console.capture() as capture:
        console.print(live_table([RUNNING], title="runs"))
    drawn = capture.get()
    for text in ("demo", "stage1", "Succeeded", "15/60", "1,234", "45s", "StageRunning: stage2 attempt 2 runs"):
        assert text in drawn


def test_a_log_line_carries_state_attempt_step_and_loss_of_each_begun_stage():
    assert plain_line(RUNNING) == "demo: Running  stage1 Succeeded a1 30/30 loss 3.1  stage2 Running a2 15/60 loss 2.5"
