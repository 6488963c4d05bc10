"""Starting launchers as pods would: one process per fake node, all on the loopback device."""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from internvl_trainer.contract import environment
from internvl_trainer.contract.job import JobConfig

SECONDS = 150
"""No job of these tests may take longer."""


class Nodes:
    """A job's launchers, and what they have written so far."""

    def __init__(self, launchers: list[subprocess.Popen[str]]) -> None:
        self.launchers = launchers
        self.lines: list[str] = []
        self._news = threading.Condition()
        self._readers = [threading.Thread(target=self._read, args=(each,), daemon=True) for each in launchers]
        for reader in self._readers:
            reader.start()

    def wait_for(self, text: str) -> str:
        """The first line that holds `text`, as soon as there is one."""
        with self._news:
            assert self._news.wait_for(lambda: self._find(text), SECONDS), f"nobody wrote {text!r}:\n{self.output}"
            return self._find(text) or ""

    def exit_codes(self) -> list[int]:
        """The launchers' codes, when all have ended."""
        codes = [each.wait(SECONDS) for each in self.launchers]
        for reader in self._readers:
            reader.join()
        return codes

    def pid_of_rank(self, rank: int) -> int:
        """Process id of a worker: a child of a launcher whose environment says that it is this rank."""
        for launcher in self.launchers:
            children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
            per_node = len(children)
            first = self.launchers.index(launcher) * per_node
            if first <= rank < first + per_node:
                return int(sorted(children, key=int)[rank - first])
        raise AssertionError(f"no worker has rank {rank}")

    @property
    def output(self) -> str:
        """Everything written so far."""
        return "\n".join(self.lines)

    def _find(self, text: str) -> str | None:
        return next((line for line in self.lines if text in line), None)

    def _read(self, launcher: subprocess.Popen[str]) -> None:
        assert launcher.stdout is not None
        for line in launcher.stdout:
            with self._news:
                self.lines.append(line.rstrip("\n"))
                self._news.notify_all()


@contextmanager
def launched(job: JobConfig, folder: Path, *, nodes: int = 1) -> Iterator[Nodes]:
    """Start a job's launchers with the environment that the operator gives to pods."""
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / f"{job.stage}-a{job.attempt}.json"
    config.write_bytes(job.to_bytes())
    port = _free_port()
    launchers = [
        subprocess.Popen(
            [sys.executable, "-m", "internvl_trainer.launch", "--config", str(config)],
            env=os.environ | _pod(node, nodes, job.layout.world // nodes, port, folder / f"scratch-{node}"),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        for node in range(nodes)
    ]
    try:
        yield Nodes(launchers)
    finally:
        for launcher in launchers:
            if launcher.poll() is None:
                launcher.send_signal(signal.SIGTERM)
        for launcher in launchers:
            launcher.wait(30)


def run(job: JobConfig, folder: Path, *, nodes: int = 1) -> tuple[list[int], str]:
    """Run a job to its end: exit codes and output."""
    with launched(job, folder, nodes=nodes) as job_nodes:
        return job_nodes.exit_codes(), job_nodes.output


def _pod(node: int, nodes: int, processes: int, port: int, scratch: Path) -> dict[str, str]:
    return {
        environment.NODE_RANK: str(node),
        environment.NODES: str(nodes),
        environment.PROCESSES_PER_NODE: str(processes),
        environment.MASTER_ADDR: "127.0.0.1",
        environment.MASTER_PORT: str(port),
        environment.SCRATCH: str(scratch),
        environment.GRACE_SECONDS: "20",
    }


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
