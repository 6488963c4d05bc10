"""Probes and metrics of the process."""

import json
import logging
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import aiohttp
import pytest

from internvl_operator.adapters.health import Heartbeat, serve_health
from internvl_operator.adapters.logs import JsonFormatter
from internvl_operator.adapters.metrics import Metrics
from internvl_operator.api.status import Progress, StageState, StageStatus, TrainingStatus
from internvl_operator.config import HealthSettings

pytestmark = pytest.mark.unit


class Clock:
    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def heartbeat(clock: Clock) -> Heartbeat:
    return Heartbeat(stale_seconds=100, monotonic=clock)


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
async def url(heartbeat: Heartbeat, metrics: Metrics) -> AsyncIterator[str]:
    async with serve_health(HealthSettings(port=0), heartbeat, metrics) as port:
        yield f"http://127.0.0.1:{port}"


async def get(url: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        return response.status, await response.text()


async def test_it_is_ready_once_it_watches(url: str, heartbeat: Heartbeat) -> None:
    assert (await get(f"{url}/readyz"))[0] == 503
    heartbeat.ready = True
    assert (await get(f"{url}/readyz"))[0] == 200


async def test_a_pass_that_never_ends_is_told_by_name(url: str, heartbeat: Heartbeat, clock: Clock) -> None:
    with heartbeat.beat("team/run"):
        assert (await get(f"{url}/healthz"))[0] == 200
        clock.seconds = 101
        assert await get(f"{url}/healthz") == (503, "stuck: ['team/run']\n")
    assert (await get(f"{url}/healthz"))[0] == 200


def at_step(step: int, state: StageState) -> TrainingStatus:
    progress = Progress(
        stage="stage1", attempt=1, step=step, total_steps=20, percent=5 * step, steps=f"{step}/20", loss="2.5",
        tokens_per_second=1200, last_report_time=datetime(2026, 1, 1, tzinfo=UTC),
    )  # fmt: skip
    return TrainingStatus(stages=(StageStatus(name="stage1", state=state),), progress=progress)


async def test_progress_and_transitions_can_be_scraped(url: str, metrics: Metrics) -> None:
    metrics.record_status("team", "run", TrainingStatus(), at_step(3, StageState.RUNNING))
    metrics.record_status("team", "run", at_step(3, StageState.RUNNING), at_step(4, StageState.RUNNING))
    _, text = await get(f"{url}/metrics")
    assert 'internvl_training_step{name="run",namespace="team"} 4.0' in text
    assert 'internvl_training_loss{name="run",namespace="team"} 2.5' in text
    assert 'internvl_operator_stage_transitions_total{state="Running"} 1.0' in text


async def test_the_series_of_a_run_that_is_gone_are_gone_too(url: str, metrics: Metrics) -> None:
    metrics.record_status("team", "run", TrainingStatus(), at_step(3, StageState.RUNNING))
    metrics.forget("team", "run")
    metrics.forget("team", "run")
    assert "internvl_training_step{" not in (await get(f"{url}/metrics"))[1]


def test_a_log_line_is_one_json_object_with_its_run() -> None:
    record = logging.makeLogRecord(
        {"name": "internvl", "levelname": "INFO", "levelno": logging.INFO, "msg": "job %s\ncreated", "args": ("a",)}
    )
    record.run = "team/run"
    record.whole_object = {"spec": "not worth a field"}
    line = JsonFormatter().format(record)
    assert "\n" not in line
    fields = json.loads(line)
    assert fields["message"] == "job a\ncreated"
    assert fields["run"] == "team/run"
    assert "whole_object" not in fields
