"""Real worker processes, of a few milliseconds each, under a real supervisor."""

import io
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import partial

import pytest

from internvl_trainer.launch.output import PlainOutput
from internvl_trainer.launch.supervisor import Supervisor
from internvl_trainer.launch.workers import fork_worker, spawn_worker

pytestmark = pytest.mark.unit


def supervise(workers: list[Callable[[], int]], *, shutdown_seconds: float = 5.0) -> tuple[int, list[str]]:
    """Run functions as workers; the node's exit code, and what was written."""
    sink = io.BytesIO()
    start = [partial(fork_worker, rank, dict(os.environ), run) for rank, run in enumerate(workers)]
    code = Supervisor(PlainOutput(sink), shutdown_seconds).run(start)
    return code, sink.getvalue().decode().splitlines()


def says(text: str, code: int = 0) -> Callable[[], int]:
    def run() -> int:
        sys.stdout.write(text)
        return code

    return run


def waits_for_sigterm(code: int, ready: int | None = None) -> Callable[[], int]:
    """A worker that ends with `code` when told to; it writes a byte to `ready` as soon as it can be told."""

    def run() -> int:
        signal.signal(signal.SIGTERM, lambda *_: os._exit(code))
        if ready is not None:
            os.write(ready, b".")
        time.sleep(30)
        return 0

    return run


def ignores_sigterm(ready: int) -> Callable[[], int]:
    def run() -> int:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.write(ready, b".")
        time.sleep(30)
        return 0

    return run


def terminate_when_ready(workers: int) -> int:
    """Send this process SIGTERM as soon as so many workers have written a byte to the descriptor returned."""
    reading, writing = os.pipe()

    def wait() -> None:
        for _ in range(workers):
            os.read(reading, 1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()
    return writing


def test_when_all_succeed_the_node_does_and_every_line_says_whose_it_is() -> None:
    code, lines = supervise([says("one\ntwo\n"), says("three\nno newline at the end")])
    assert code == 0
    assert sorted(lines) == ["[rank 0] one", "[rank 0] two", "[rank 1] no newline at the end", "[rank 1] three"]


def test_what_a_worker_writes_to_both_streams_arrives() -> None:
    def run() -> int:
        sys.stderr.write("a warning\n")
        os.write(1, b"past python's buffers\n")
        return 0

    code, lines = supervise([run])
    assert (code, sorted(lines)) == (0, ["[rank 0] a warning", "[rank 0] past python's buffers"])


def test_the_first_failure_stops_the_others_and_gives_the_code() -> None:
    begun = time.monotonic()
    code, _ = supervise([waits_for_sigterm(30), says("", code=11), waits_for_sigterm(30)])
    assert code == 11
    assert time.monotonic() - begun < 20


def test_a_worker_killed_by_a_signal_counts_128_and_the_signal() -> None:
    code, _ = supervise([lambda: os.kill(os.getpid(), signal.SIGKILL) or 0, waits_for_sigterm(21)])
    assert code == 128 + signal.SIGKILL


def test_a_crash_shows_its_traceback_and_counts_one() -> None:
    def run() -> int:
        raise ZeroDivisionError("on purpose")

    code, lines = supervise([run])
    assert code == 1
    assert "[rank 0] ZeroDivisionError: on purpose" in lines
    assert "[launcher] rank 0 ended: crashed with exit code 1" in lines


def test_sigterm_is_passed_on_and_the_workers_own_code_is_kept() -> None:
    ready = terminate_when_ready(2)
    code, _ = supervise([waits_for_sigterm(30, ready), waits_for_sigterm(30, ready)])
    assert code == 30


def test_a_worker_that_does_not_end_in_time_is_killed() -> None:
    ready = terminate_when_ready(2)
    begun = time.monotonic()
    code, _ = supervise([ignores_sigterm(ready), waits_for_sigterm(30, ready)], shutdown_seconds=0.5)
    assert code == 30
    assert time.monotonic() - begun < 20


def test_the_supervisor_gives_signals_back_as_they_were() -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGCHLD)
    supervise([says("")])
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGCHLD)) == before


def test_a_spawned_worker_is_treated_alike() -> None:
    sink = io.BytesIO()
    command = [sys.executable, "-S", "-c", "import os; print('from rank', os.environ['RANK']); raise SystemExit(20)"]
    code = Supervisor(PlainOutput(sink), 5.0).run([partial(spawn_worker, 3, {"RANK": "3"}, command)])
    assert code == 20
    assert sorted(sink.getvalue().splitlines()) == [
        b"[launcher] rank 3 ended: store unavailable",
        b"[rank 3] from rank 3",
    ]
