"""The progress endpoint believes a report only from a pod of the attempt that it speaks of."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

from internvl_operator.adapters.kube import TokenIdentity
from internvl_operator.adapters.kube_errors import UnavailableError
from internvl_operator.adapters.metrics import Metrics
from internvl_operator.adapters.progress import ProgressBoard, ProgressEndpoint, TokenReviewer, is_pod_of
from internvl_operator.domain.state import AttemptKey
from internvl_trainer.contract.base import RunIdentity
from internvl_trainer.contract.progress import REPORT_PATH, TOKEN_AUDIENCE, ProgressReport

pytestmark = pytest.mark.unit

RUN = RunIdentity(uid="uid-1", namespace="team", name="run")
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def pod(name: str, namespace: str = "team") -> TokenIdentity:
    return TokenIdentity(namespace, "default", name, "pod-uid")


TOKENS = {
    "worker": pod("run-stage1-a2-worker-0"),
    "older": pod("run-stage1-a1-worker-0"),
    "stranger": pod("other-stage1-a2-worker-0"),
    "elsewhere": pod("run-stage1-a2-worker-0", namespace="other"),
    "unbound": TokenIdentity("team", "default", "", ""),
}


def report(**changes: Any) -> ProgressReport:
    fields: dict[str, Any] = {
        "run_uid": RUN.uid, "stage": "stage1", "attempt": 2, "step": 7, "total_steps": 20, "loss": 2.5,
        "reported_at": NOON,
    }  # fmt: skip
    return ProgressReport.model_validate(fields | changes)


class Reviews:
    """Stands for the API server: knows the tokens above, and counts how often it is asked."""

    def __init__(self) -> None:
        self.asked = 0
        self.error: Exception | None = None

    async def __call__(self, token: str, audience: str) -> TokenIdentity | None:
        assert audience == TOKEN_AUDIENCE
        self.asked += 1
        if self.error:
            raise self.error
        return TOKENS.get(token)


@pytest.fixture
def reviews() -> Reviews:
    return Reviews()


@pytest.fixture
def nudged() -> list[str]:
    return []


@pytest.fixture
def board(nudged: list[str]) -> ProgressBoard:
    board = ProgressBoard(lambda run: nudged.append(run.name))
    board.follow(RUN)
    return board


@pytest.fixture
async def client(board: ProgressBoard, reviews: Reviews) -> AsyncIterator[TestClient[Any, Any]]:
    endpoint = ProgressEndpoint(board, TokenReviewer(reviews, 60), Metrics(), max_body_bytes=1024)
    async with TestClient(TestServer(endpoint.application())) as client:
        yield client


Post = Callable[..., Any]


@pytest.fixture
def post(client: TestClient[Any, Any]) -> Post:
    async def post(token: str | None = "worker", payload: bytes | None = None, **changes: Any) -> tuple[int, str]:
        headers = {"Authorization": f"Bearer {token}"} if token is not None else {}
        body = report(**changes).to_bytes() if payload is None else payload
        async with client.post(REPORT_PATH, data=body, headers=headers) as response:
            return response.status, await response.text()

    return post


async def test_a_report_of_the_attempts_own_pod_is_kept(post: Post, board: ProgressBoard, nudged: list[str]) -> None:
    assert await post() == (204, "")
    assert board.reports(RUN.uid) == {AttemptKey("stage1", 2): report()}
    assert nudged == ["run"]


@pytest.mark.parametrize(
    ("token", "status", "text"),
    [
        (None, 401, "a bearer token is required"),
        ("forged", 401, "not valid"),
        ("older", 403, "run-stage1-a1-worker-0"),
        ("stranger", 403, "not part of attempt 2 of stage stage1 of team/run"),
        ("elsewhere", 403, "other/run-stage1-a2-worker-0"),
        ("unbound", 403, "(none)"),
    ],
)
async def test_everybody_else_is_refused(
    post: Post, board: ProgressBoard, token: str | None, status: int, text: str
) -> None:
    answer = await post(token)
    assert answer[0] == status
    assert text in answer[1]
    assert board.reports(RUN.uid) == {}


async def test_a_run_that_nobody_follows_is_not_found(post: Post) -> None:
    status, text = await post(run_uid="uid-2")
    assert status == 404
    assert "uid-2" in text


async def test_a_report_that_is_none_is_refused_without_an_echo(post: Post) -> None:
    status, text = await post(payload=b'{"step": "a secret"}')
    assert status == 400
    assert "run_uid: missing" in text
    assert "a secret" not in text


async def test_a_huge_body_is_not_read(post: Post) -> None:
    assert (await post(payload=b"x" * 2000))[0] == 413


async def test_while_the_api_server_is_away_the_trainer_is_told_to_come_back(post: Post, reviews: Reviews) -> None:
    reviews.error = UnavailableError("POST tokenreviews", 503, "ServiceUnavailable", "etcd is away")
    assert (await post())[0] == 503
    reviews.error = None
    assert (await post())[0] == 204


async def test_an_older_report_does_not_replace_a_newer_one(post: Post, board: ProgressBoard) -> None:
    await post(step=9, reported_at=NOON + timedelta(seconds=5))
    assert (await post(step=7))[0] == 409
    (kept,) = board.reports(RUN.uid).values()
    assert kept.step == 9


async def test_the_dead_attempts_late_report_does_not_replace_the_living_ones(post: Post, board: ProgressBoard) -> None:
    await post(step=1)
    late = await post("older", attempt=1, step=19, reported_at=NOON + timedelta(hours=1))
    assert late[0] == 409
    assert list(board.reports(RUN.uid)) == [AttemptKey("stage1", 2)]


async def test_a_token_is_reviewed_once_while_the_answer_is_fresh(post: Post, reviews: Reviews) -> None:
    await post()
    await post(reported_at=NOON + timedelta(seconds=5))
    assert reviews.asked == 1


async def test_an_answer_about_a_token_goes_stale_and_a_refusal_sooner() -> None:
    seconds = 0.0
    reviews = Reviews()
    reviewer = TokenReviewer(reviews, 60, monotonic=lambda: seconds)
    for token in ("worker", "forged"):
        await reviewer.identity(token)
    seconds = 11.0
    assert await reviewer.identity("worker") == TOKENS["worker"]
    assert await reviewer.identity("forged") is None
    assert reviews.asked == 3
    seconds = 61.0
    await reviewer.identity("worker")
    assert reviews.asked == 4


async def test_a_flood_of_forged_tokens_reaches_the_api_server_in_single_file() -> None:
    under_way, most = 0, 0

    async def slow(token: str, audience: str) -> TokenIdentity | None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.001)
        under_way -= 1
        return None

    reviewer = TokenReviewer(slow, 60)
    await asyncio.gather(*(reviewer.identity(f"forged-{number}") for number in range(100)))
    assert most <= 8


async def test_a_run_that_is_gone_leaves_nothing_behind(post: Post, board: ProgressBoard) -> None:
    await post()
    board.forget(RUN.uid)
    assert board.reports(RUN.uid) == {}
    assert (await post(reported_at=NOON + timedelta(seconds=5)))[0] == 404


@pytest.mark.parametrize(
    ("name", "belongs"),
    [
        ("run-stage1-a2-worker-0", True),
        ("run-stage1-a2-worker-17", True),
        ("run-stage1-a2-worker-", False),
        ("run-stage1-a2-worker-0-x", False),
        ("x-run-stage1-a2-worker-0", False),
        ("run-stage1-a22-worker-0", False),
    ],
)
def test_pods_belong_to_an_attempt_by_their_whole_name(name: str, belongs: bool) -> None:
    assert is_pod_of(pod(name), RUN, "stage1", 2) is belongs
