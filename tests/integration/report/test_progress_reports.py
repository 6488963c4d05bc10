"""The reporter against a real HTTPS server that answers, refuses, hangs and comes back."""

import http.server
import logging
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from hack.cluster.certs import Authority
from internvl_trainer.contract.job import ProgressConfig
from internvl_trainer.contract.progress import ProgressReport
from internvl_trainer.train.report import ProgressReporter

pytestmark = [pytest.mark.integration, pytest.mark.timeout(60)]


class Operator:
    """An HTTPS endpoint that remembers what it is sent."""

    def __init__(self, folder: Path) -> None:
        authority = Authority("progress-test")
        pair = authority.issue("operator", hosts=["127.0.0.1"])
        self.ca_file, self.token_file = folder / "ca.crt", folder / "token"
        self.ca_file.write_bytes(authority.pair.certificate)
        self.token_file.write_text("first-token\n")
        (folder / "tls.pem").write_bytes(pair.certificate + pair.key)
        self.reports: list[ProgressReport] = []
        self.tokens: list[str | None] = []
        self.status, self.delay = 204, 0.0
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "tls.pem")
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def config(self, **changes: object) -> ProgressConfig:
        fields = {
            "url": f"https://127.0.0.1:{self._server.server_address[1]}/v1/progress",
            "ca_file": str(self.ca_file),
            "token_file": str(self.token_file),
            "interval_seconds": 0.05,
        }
        return ProgressConfig.model_validate(fields | changes)

    def _handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        operator = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                time.sleep(operator.delay)
                operator.tokens.append(self.headers["Authorization"])
                operator.reports.append(ProgressReport.from_bytes(body))
                self.send_response(operator.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *arguments: object) -> None:
                """Keep the test's output clean."""

        return Handler


@pytest.fixture
def operator(tmp_path: Path) -> Iterator[Operator]:
    running = Operator(tmp_path)
    yield running
    running.close()


def report(step: int) -> ProgressReport:
    return ProgressReport(
        run_uid="uid", stage="stage1", attempt=1, step=step, total_steps=100, loss=1.5, reported_at=datetime.now(UTC)
    )


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in 20 s"
        time.sleep(0.01)


@contextmanager
def quick(limit: float) -> Iterator[None]:
    begun = time.monotonic()
    yield
    assert time.monotonic() - begun < limit


def test_a_report_arrives_whole_with_the_token(operator: Operator) -> None:
    sent = report(7)
    with ProgressReporter(operator.config()) as reporter:
        reporter.submit(sent)
        eventually(lambda: bool(operator.reports))
    assert operator.reports == [sent]
    assert operator.tokens == ["Bearer first-token"]


def test_a_rotated_token_is_used_at_once(operator: Operator) -> None:
    with ProgressReporter(operator.config()) as reporter:
        reporter.submit(report(1))
        eventually(lambda: len(operator.reports) == 1)
        operator.token_file.write_text("second-token")
        reporter.submit(report(2))
        eventually(lambda: len(operator.reports) == 2)
    assert operator.tokens[1] == "Bearer second-token"


def test_the_latest_report_wins_and_the_last_is_flushed(operator: Operator) -> None:
    with ProgressReporter(operator.config(interval_seconds=30)) as reporter, quick(5):
        for step in range(1, 101):
            reporter.submit(report(step))
            time.sleep(0.001)
        reporter.close()
    steps = [received.step for received in operator.reports]
    assert steps[-1] == 100
    assert len(steps) <= 2, "one at the start, one at the end, as the pause is long"


def test_a_slow_operator_holds_nobody_up(operator: Operator) -> None:
    operator.delay = 3.0
    reporter = ProgressReporter(operator.config())
    with quick(0.5):
        for step in range(100):
            reporter.submit(report(step))
    with quick(2.0):
        reporter.close(seconds=1.0)


def test_failures_are_logged_once_and_so_is_recovery(operator: Operator, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="internvl_trainer.train.report")

    def posts(reporter: ProgressReporter, count: int) -> None:
        for _ in range(count):
            seen = len(operator.reports)
            reporter.submit(report(seen + 1))
            eventually(lambda seen=seen: len(operator.reports) > seen)  # type: ignore[misc]

    with ProgressReporter(operator.config()) as reporter:
        operator.status = 503
        posts(reporter, 3)
        operator.status = 403
        posts(reporter, 3)
        operator.status = 204
        posts(reporter, 3)
    assert [record.message for record in caplog.records if record.name == "internvl_trainer.train.report"] == [
        "progress reports do not reach the operator: HTTP 503; training goes on",
        "progress reports do not reach the operator: HTTP 403; training goes on",
        "progress reports reach the operator again",
    ]
    assert "first-token" not in caplog.text


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"url": "https://127.0.0.1:9/v1/progress"}, "NewConnectionError"),
        ({"ca_file": None}, "SSLError"),
        ({"ca_file": "/nowhere/ca.crt"}, "FileNotFoundError|OSError|SSLError"),
        ({"token_file": "/nowhere/token"}, "FileNotFoundError /nowhere/token"),
    ],
    ids=["nobody-listens", "unknown-authority", "no-ca-file", "no-token-file"],
)
def test_whatever_is_wrong_training_goes_on(
    operator: Operator, changes: dict[str, object], told: str, caplog: pytest.LogCaptureFixture
) -> None:
    with ProgressReporter(operator.config(**changes)) as reporter:
        reporter.submit(report(1))
        eventually(lambda: bool(caplog.records))
    (record,) = [each for each in caplog.records if each.name == "internvl_trainer.train.report"]
    assert any(name in record.message for name in told.split("|")), record.message
    assert operator.reports == []
