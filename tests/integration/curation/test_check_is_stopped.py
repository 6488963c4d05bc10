"""A check that does not come to its end says what it has found, and leaves nothing behind."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest

from internvl_trainer.contract.exit_codes import ExitCode
from tests.integration.curation.commands import TOKENIZER, begin, end, run, wait_until
from tests.unit.trainer.data.world import image_record, text_record

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

BAD_LINE = "{no record\n"
GOOD_LINES = 500


@pytest.fixture
def endless(tmp_path: Path) -> Path:
    """A bad line, good ones, and then a picture in a pipe that nobody ever writes to."""
    os.mkfifo(tmp_path / "never.png")
    records: list[dict[str, Any]] = [text_record(number) for number in range(GOOD_LINES)]
    lines = [json.dumps(record) + "\n" for record in [*records, image_record(99, "never.png", 100, 100)]]
    (tmp_path / "endless.jsonl").write_text("".join([BAD_LINE, *lines]))
    (tmp_path / "meta.json").write_text(json.dumps({"endless": {"root": ".", "annotation": "endless.jsonl"}}))
    return tmp_path


def begun(folder: Path) -> Any:
    """A check in which the first part is done and a worker waits for the picture."""
    bad = folder / "bad.jsonl"
    process = begin(
        "check", folder / "meta.json", "--tokenizer", TOKENIZER, "--model", "tiny-8b-like", "--workers", "2",
        "--bad", bad, "--output", "json", cache=folder / "cache",
    )  # fmt: skip
    wait_until(lambda: bad.exists() and bad.stat().st_size > 0, "a bad sample in the file")
    return process


def workers(process: Any) -> list[psutil.Process]:
    children = psutil.Process(process.pid).children(recursive=True)
    return [child for child in children if "forkserver" in " ".join(child.cmdline()) and not child.children()]


def test_an_interruption_leaves_a_report_of_what_was_read(endless: Path) -> None:
    process = begun(endless)
    of_it = workers(process)
    process.send_signal(signal.SIGINT)
    ended = end(process)
    assert ended.code == ExitCode.INTERRUPTED, ended.errors
    report = ended.document
    assert (report["complete"], report["estimate"]) == (False, None)
    assert 1 < report["sources"][0]["samples"] <= GOOD_LINES
    assert report["sources"][0]["bad"] == {"malformed record": 1}
    (bad,) = [json.loads(line) for line in (endless / "bad.jsonl").read_text().splitlines()]
    assert (bad["source"], bad["line"]) == ("endless", 1)
    assert "interrupted" in ended.errors
    assert not [worker for worker in of_it if worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE]
    assert not list((endless / "cache").glob("check-*")), "what it held on disk is gone"


def test_a_worker_that_is_killed_is_named_with_what_it_read(endless: Path) -> None:
    process = begun(endless)
    for worker in workers(process):
        worker.kill()
    ended = end(process)
    assert ended.code == ExitCode.PEER_LOST, ended.errors
    assert "a worker process died: killed, out of memory" in ended.errors
    assert f"{endless}/endless.jsonl from line " in ended.errors
    assert ended.document["complete"] is False
    assert ended.document["sources"][0]["bad"] == {"malformed record": 1}


def test_a_full_disk_under_the_bad_samples_is_told_of_with_what_was_found(endless: Path) -> None:
    ended = run(
        "check", endless / "meta.json", "--tokenizer", TOKENIZER, "--model", "tiny-8b-like", "--workers", "1",
        "--bad", "/dev/full", "--output", "json", cache=endless / "cache",
    )  # fmt: skip
    assert ended.code == ExitCode.INVALID_CONFIG, ended.errors
    assert "cannot write /dev/full: no space left on device; free space or name another file by --bad" in ended.errors
    assert ended.document["complete"] is False
    assert ended.document["sources"][0]["bad"] == {"malformed record": 1}
