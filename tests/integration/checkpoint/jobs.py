"""Starting the processes of a job as its nodes would: one scratch folder for each node, torchrun's variables."""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

TIMEOUT_SECONDS = 150.0
ROOT = Path(__file__).parents[3]


def run_story(
    story: str, settings: Mapping[str, Any], folder: Path, *, nodes: int = 1, per_node: int = 1, may_die: bool = False
) -> list[dict[str, Any]]:
    """Play one story of stories.py in a fresh job, and return what each rank saw, in the order of ranks.

    The scratch folder of node n is `<folder>/node<n>`. Whatever still runs after the time limit, or after a process
    failed, is killed. With `may_die`, ranks that ended without a word are left out.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    out = Path(tempfile.mkdtemp(dir=folder, prefix="out-"))
    with ExitStack() as stack:
        processes = []
        for rank in range(nodes * per_node):
            log = stack.enter_context((out / f"{rank}.log").open("wb"))
            environment = _environment(rank, nodes, per_node, port)
            call = [story, json.dumps({**settings, "scratch": str(folder / f"node{rank // per_node}")}), str(out)]
            command = ["setpriv", "--pdeathsig", "KILL", sys.executable, "-m", "tests.integration.checkpoint.stories"]
            process = subprocess.Popen([*command, *call], cwd=ROOT, env=environment, stdout=log, stderr=log)
            stack.callback(_end, process)
            processes.append(process)
        _wait(processes, may_die)
    codes = [process.returncode for process in processes]
    logs = "\n".join((out / f"{rank}.log").read_text() for rank in range(len(processes)))
    assert may_die or codes == [0] * len(codes), f"exit codes {codes}\n{logs[-6000:]}"
    return [json.loads(path.read_text()) for path in sorted(out.glob("*.json"))]


def _environment(rank: int, nodes: int, per_node: int, port: int) -> dict[str, str]:
    return {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "RANK": str(rank),
        "WORLD_SIZE": str(nodes * per_node),
        "LOCAL_RANK": str(rank % per_node),
        "LOCAL_WORLD_SIZE": str(per_node),
        "GROUP_RANK": str(rank // per_node),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def _wait(processes: "list[subprocess.Popen[bytes]]", may_die: bool) -> None:
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while time.monotonic() < deadline and any(process.poll() is None for process in processes):
        if not may_die and any(process.poll() for process in processes):
            return
        time.sleep(0.05)


def _end(process: "subprocess.Popen[bytes]") -> None:
    if process.poll() is None:
        process.kill()
    process.wait(10)
