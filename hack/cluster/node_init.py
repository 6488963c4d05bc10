"""The first process of a node: containerd and the kubelet in process and mount namespaces of their own.

Run as `python -m hack.cluster.node_init CONFIG`. As on a machine, everything that runs on the node ends with its first
process: the kernel then kills all pods, and their mounts and network namespaces go with the last process that held
them. Nothing has to be found and cleaned up one by one, not even after a SIGKILL.

Standard library alone, so that it starts in no time and stays small.
"""

import ctypes
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

_MS_BIND, _MS_REC, _MS_PRIVATE, _MS_SHARED = 0x1000, 0x4000, 1 << 18, 1 << 20
_MS_RDONLY, _MS_REMOUNT, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC = 1, 32, 2, 4, 8
_PR_SET_PDEATHSIG = 1

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mount.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p)

# A crashed agent comes back, as systemd would do it; not so fast that a broken one fills its log.
_RESTART_SECONDS = 1.0
_STOP_SECONDS = 3.0


def mount(source: str, target: str, kind: str | None, flags: int) -> None:
    """mount(2). Raises OSError that names the target."""
    if _LIBC.mount(source.encode(), target.encode(), kind.encode() if kind else None, flags, None):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), target)


def bind(source: str, target: str, *, read_only: bool = False) -> None:
    """Shows `source` at `target` too; `read_only` holds even for root."""
    mount(source, target, None, _MS_BIND)
    if read_only:
        mount("none", target, None, _MS_BIND | _MS_REMOUNT | _MS_RDONLY)


def main() -> int:
    config = json.loads(Path(sys.argv[1]).read_text())
    os.unshare(os.CLONE_NEWNS | os.CLONE_NEWPID)
    # A process never enters a new process namespace itself: its next child is that namespace's first process.
    child = os.fork()
    if child == 0:
        os._exit(_node(config))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _: os.kill(child, received))
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) & 0xFF


def _node(config: dict[str, Any]) -> int:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    stopping = False

    def stop(*_: object) -> None:
        nonlocal stopping
        stopping = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    _mount_all(config)

    agents: dict[str, int] = {}
    due: dict[str, float] = dict.fromkeys(config["agents"], 0.0)
    while not stopping:
        for name, command in config["agents"].items():
            if name not in agents and time.monotonic() >= due[name]:
                agents[name] = _start(command, config["environment"], config["logs"][name])
        for ended in _reap():
            for name in [name for name, pid in agents.items() if pid == ended]:
                del agents[name]
                due[name] = time.monotonic() + _RESTART_SECONDS
                print(f"{name} ended; it starts again", flush=True)
        time.sleep(0.1)
    _stop(agents)
    return 0


def _mount_all(config: dict[str, Any]) -> None:
    # First away from the machine's mounts, so that nothing which is mounted here shows there; then shared among the
    # node's own, so that containers see what the kubelet mounts for them later.
    mount("none", "/", None, _MS_REC | _MS_PRIVATE)
    mount("proc", "/proc", "proc", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC)
    for entry in config["mounts"]:
        bind(entry["source"], entry["target"], read_only=entry["readOnly"])
    mount("none", "/", None, _MS_REC | _MS_SHARED)


def _start(command: list[str], environment: dict[str, str], log: str) -> int:
    # Not subprocess: it reaps children of its own accord, and would hide from `_reap` that an agent ended.
    append = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    redirect = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, log, append, 0o644),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    return os.posix_spawn(command[0], command, environment, file_actions=redirect)


def _reap() -> list[int]:
    """Every process that has ended since: the agents, and orphans, which all become this process's children."""
    ended: list[int] = []
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if pid == 0:
            return ended
        ended.append(pid)


def _stop(agents: dict[str, int]) -> None:
    """Ends the kubelet first, so that it does not restart what is ended next; then everything else at once."""
    if "kubelet" in agents:
        os.kill(agents["kubelet"], signal.SIGTERM)
        deadline = time.monotonic() + _STOP_SECONDS
        while time.monotonic() < deadline and agents["kubelet"] not in _reap():
            time.sleep(0.02)
    try:
        os.kill(-1, signal.SIGKILL)
        while True:
            os.waitpid(-1, 0)
    except (ChildProcessError, ProcessLookupError):
        return


if __name__ == "__main__":
    sys.exit(main())
