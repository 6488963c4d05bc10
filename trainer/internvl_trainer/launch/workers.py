"""Starting a worker process with its output in a pipe: by fork from a warm parent, or as a fresh interpreter."""

import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

STDOUT, STDERR = 1, 2

_OURS = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)
"""Signals that a launcher handles, and that a worker must not inherit its handling of."""


@dataclass(frozen=True)
class Worker:
    """A running worker: its rank, its process (and process group) id, and the reading end of its output."""

    rank: int
    pid: int
    output: int


def fork_worker(rank: int, environment: Mapping[str, str], run: Callable[[], int]) -> Worker:
    """Start `run` in a copy of this process, which has imported what `run` needs; its result is the exit code.

    Importing torch and megatron takes a process seconds of CPU; forked workers share the pages and pay nothing. Only
    for processes that have neither touched CUDA nor started threads: both do not survive a fork.
    """
    reading, writing = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    # A signal between the fork and the worker's own handlers would be lost on handlers that it inherited.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _OURS)
    pid = os.fork()
    if pid:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.close(writing)
        return Worker(rank, pid, reading)
    code = 1
    try:
        os.close(reading)
        _become_worker(writing, environment)
        code = run()
    except BaseException:  # noqa: BLE001  (the border of a process: nothing may climb into the launcher's frames)
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def spawn_worker(rank: int, environment: Mapping[str, str], command: list[str]) -> Worker:
    """Start `command` as a new process."""
    reading, writing = os.pipe()
    actions: list[Any] = [
        (os.POSIX_SPAWN_DUP2, writing, STDOUT),
        (os.POSIX_SPAWN_DUP2, writing, STDERR),
        (os.POSIX_SPAWN_CLOSE, reading),
        (os.POSIX_SPAWN_CLOSE, writing),
    ]
    pid = os.posix_spawn(
        command[0],
        command,
        {**environment, "PYTHONUNBUFFERED": "1"},
        file_actions=actions,
        setpgroup=0,
        setsigmask=[],
        setsigdef=_OURS,
    )
    os.close(writing)
    return Worker(rank, pid, reading)


def _become_worker(output: int, environment: Mapping[str, str]) -> None:
    """Own process group, default signals, output into the pipe by lines, and the worker's environment."""
    os.setpgid(0, 0)
    signal.set_wakeup_fd(-1)
    for number in _OURS:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.dup2(output, STDOUT)
    os.dup2(output, STDERR)
    os.close(output)
    sys.stdout = open(STDOUT, "w", buffering=1, closefd=False)  # noqa: SIM115
    sys.stderr = open(STDERR, "w", buffering=1, closefd=False)  # noqa: SIM115
    os.environ.clear()
    os.environ.update(environment)
