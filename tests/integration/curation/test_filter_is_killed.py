"""A filter that is killed leaves no process behind."""

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.integration.curation.commands import wait_until
from tests.unit.trainer.data.world import text_record

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

LINES = 100_000


def test_workers_end_with_a_filter_that_is_killed(tmp_path: Path) -> None:
    (tmp_path / "set.jsonl").write_text("".join(json.dumps(text_record(n)) + "\n" for n in range(LINES)))
    (tmp_path / "meta.json").write_text(json.dumps({"set": {"root": ".", "annotation": "set.jsonl"}}))
    command = [sys.executable, "-m", "internvl_trainer.curation", "filter", "meta.json", "out", "--workers", "2"]
    process = subprocess.Popen(command, cwd=tmp_path, env=os.environ, stderr=subprocess.DEVNULL)
    try:
        parent = psutil.Process(process.pid)
        wait_until(lambda: len(_workers(parent)) == 2, "two workers")
        workers = _workers(parent)
    finally:
        process.kill()
        process.wait()

    gone, left = psutil.wait_procs(workers, timeout=30)
    for worker in left:
        worker.kill()

    assert (len(gone), left) == (2, [])


def _workers(parent: psutil.Process) -> list[psutil.Process]:
    return [child for child in parent.children() if "spawn_main" in " ".join(child.cmdline())]
