"""Starting, finding and ending the cluster's processes; never any other.

Every process that the cluster starts carries a variable that names the state folder. It is inherited by all that it
starts in turn (shims, for example), so that even the leftovers of a killed predecessor are known for certain.
"""

import contextlib
import os
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from hack.cluster.errors import ClusterError
from hack.cluster.paths import State

MARKER = "INTERNVL_CLUSTER_STATE"


@dataclass(frozen=True)
class Started:
    """A process that was started here, and where its output goes."""

    name: str
    process: psutil.Process
    log: Path

    def check(self) -> None:
        """Raises ClusterError when the process has ended."""
        if not is_alive(self.process):
            raise ClusterError(f"{self.name} has ended while it was still needed", log=self.log)


def marker(state: State) -> str:
    return str(state.cluster)


def start(
    state: State,
    name: str,
    command: Sequence[str | Path],
    environment: Mapping[str, str] | None = None,
    *,
    dies_with_parent: bool = False,
) -> Started:
    """Starts a component in its own session, with its output in its log file.

    `dies_with_parent` asks the kernel to kill it as soon as the thread that started it ends: for tests.
    """
    log = state.log(name)
    arguments = [str(part) for part in command]
    if dies_with_parent:
        # setpriv rather than preexec_fn, which may deadlock in a program with threads.
        arguments = ["setpriv", "--pdeathsig", "KILL", *arguments]
    with log.open("ab") as output:
        child = subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd="/",
            env={**os.environ, **(environment or {}), MARKER: marker(state)},
            start_new_session=True,
        )
    # psutil remembers the start time: a process that later gets the same number is not taken for this one.
    return Started(name, psutil.Process(child.pid), log)


def record(state: State, started: Started) -> None:
    """Notes a component's process for `status`."""
    path = state.run / f"{started.name}.pid"
    path.write_text(f"{started.process.pid} {start_ticks(started.process.pid)}\n")


def start_ticks(pid: int) -> int | None:
    """When a process started, in clock ticks since boot (which no change of the wall clock moves); None: no such."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name, in parentheses, may hold spaces; start time is the 20th field after it.
    return int(stat.rpartition(")")[2].split()[19])


def recorded(state: State) -> dict[str, psutil.Process | None]:
    """The components that were started, with their process, or None for one that has ended."""
    found: dict[str, psutil.Process | None] = {}
    for path in sorted(state.run.glob("*.pid")):
        pid, ticks = path.read_text().split()
        found[path.stem] = None
        if str(start_ticks(int(pid))) != ticks:
            continue
        try:
            process = psutil.Process(int(pid))
        except psutil.NoSuchProcess:
            continue
        if is_alive(process):
            found[path.stem] = process
    return found


def is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def marked(state: State) -> list[psutil.Process]:
    """Every live process that was started by a cluster of this state folder, this command itself excepted."""
    wanted, found = marker(state), []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get(MARKER) == wanted and is_alive(process):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied, OSError):
            # It ended meanwhile, or is a kernel thread.
            continue
    return found


def stop(processes: Iterable[psutil.Process], *, patience: float) -> None:
    """Asks with SIGTERM, waits `patience` seconds, then kills; returns when all have ended.

    Raises ClusterError for one that even SIGKILL does not end within 10 seconds.
    """
    pending = [process for process in processes if is_alive(process)]
    if patience > 0:
        for process in pending:
            _signal(process.terminate)
        pending = _wait(pending, patience)
    for process in pending:
        _signal(process.kill)
    pending = _wait(pending, 10)
    if pending:
        names = ", ".join(f"{process.name()} ({process.pid})" for process in pending)
        raise ClusterError(f"processes that SIGKILL did not end within 10 s: {names}; see `dmesg` for hung I/O")


def tail(log: Path, lines: int = 15) -> str:
    """The last lines of a log, for a person who needs to know why."""
    if not log.exists():
        return ""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 64 * 1024))
        return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])


def _signal(send: Callable[[], None]) -> None:
    # It may end by itself at any moment.
    with contextlib.suppress(psutil.NoSuchProcess):
        send()


def _wait(processes: list[psutil.Process], seconds: float) -> list[psutil.Process]:
    deadline = time.monotonic() + seconds
    while processes and time.monotonic() < deadline:
        # Reaps those that are children of this very process; is_alive counts a zombie as ended.
        processes = [process for process in processes if is_alive(process)]
        if processes:
            time.sleep(0.02)
    return processes
