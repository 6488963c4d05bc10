"""A terminal's Ctrl-C, which every process of a command gets: one line, the exit code, and no process left."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from internvl_trainer.contract.exit_codes import ExitCode
from tests.integration.curation.commands import TOKENIZER, end, wait_until
from tests.unit.trainer.data.world import text_record

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

LINES = 60_000
"""More than one part of an annotation file, so that processes share it, and seconds of work."""

WORKING = 1.0
"""CPU seconds after which a process has imported what it needs."""


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("long")
    with (folder / "long.jsonl").open("w") as sink:
        sink.writelines(json.dumps(text_record(number, "a stone in a river " * 5)) + "\n" for number in range(LINES))
    (folder / "meta.json").write_text(json.dumps({"long": {"annotation": "long.jsonl"}}))
    return folder


def workers(process: subprocess.Popen[str]) -> list[psutil.Process]:
    children = psutil.Process(process.pid).children(recursive=True)
    return [child for child in children if "spawn_main" in " ".join(child.cmdline())]


@pytest.mark.parametrize("command", ["index", "filter"])
@pytest.mark.parametrize("seconds", [0.0, WORKING], ids=["while workers start", "while they work"])
def test_an_interruption_of_all_processes_is_told_in_one_line(
    long: Path, tmp_path: Path, command: str, seconds: float
) -> None:
    more = {
        "index": ["--tokenizer", TOKENIZER, "--cache", str(tmp_path / "cache"), "--processes", "2"],
        "filter": [str(tmp_path / "filtered"), "--workers", "2"],
    }[command]
    process = subprocess.Popen(
        [sys.executable, "-m", "internvl_trainer.curation", command, str(long / "meta.json"), *more],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    wait_until(lambda: any(worker.cpu_times().user >= seconds for worker in workers(process)), f"a worker of {command}")
    of_it = workers(process)
    os.killpg(process.pid, signal.SIGINT)
    ended = end(process)
    assert ended.code == ExitCode.INTERRUPTED, ended.errors
    assert "Traceback" not in ended.errors
    assert [line for line in ended.errors.splitlines() if "interrupted" in line] == [ended.errors.splitlines()[-1]]
    assert not [worker for worker in of_it if worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE]
    assert not (tmp_path / "filtered").exists()
