"""Running test code on a process grid: real processes, gloo, megatron.core; imports paid once per session."""

import multiprocessing
import os
import socket
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection, wait
from typing import Any

from internvl_trainer.contract.manifest import ParallelLayout

SECONDS = 150
"""No case may take longer."""

PRELOADED = "tests.integration.trainer.preloaded"


@dataclass(frozen=True)
class _Crash:
    text: str


def on_grid[T](layout: ParallelLayout, case: Callable[..., T], *arguments: Any, **options: Any) -> list[T]:
    """Call `case(place, *arguments, **options)` on every rank of a fresh grid; results in rank order.

    `case` must be importable: a function at the top of a module.
    """
    return on_ranks(layout.world, _on_place, layout, partial(case, **options), *arguments)


def on_ranks[T](world: int, case: Callable[..., T], *arguments: Any) -> list[T]:
    """Call `case(*arguments)` in `world` processes with torchrun's environment; results in rank order.

    Processes come from a fork server that has imported torch and megatron.core once, so they start at once and know
    nothing of the test session's own state.
    """
    os.environ["OMP_NUM_THREADS"] = "1"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([PRELOADED])
    port = _free_port()
    ends = [context.Pipe(duplex=False) for _ in range(world)]
    processes = [
        context.Process(target=_work, args=(rank, world, port, writing, case, arguments), daemon=False)
        for rank, (_, writing) in enumerate(ends)
    ]
    for process, (_, writing) in zip(processes, ends, strict=True):
        process.start()
        writing.close()
    try:
        return _collect([reading for reading, _ in ends], time.monotonic() + SECONDS)
    finally:
        for process in processes:
            process.join(timeout=5)
            if process.is_alive():
                process.kill()
                process.join()


def _on_place[T](layout: ParallelLayout, case: Callable[..., T], *arguments: Any) -> T:
    from internvl_trainer.engine import parallel

    result = case(parallel.start(layout), *arguments)
    parallel.stop()
    return result


def _collect(readings: list[Connection], deadline: float) -> list[Any]:
    """One result per rank; the first crash of any rank ends the waiting, as its peers may wait for ever."""
    results: dict[int, Any] = {}
    while len(results) < len(readings):
        waiting = [reading for rank, reading in enumerate(readings) if rank not in results]
        ready = wait(waiting, timeout=max(0.0, deadline - time.monotonic()))
        if not ready:
            raise TimeoutError(f"ranks {sorted(set(range(len(readings))) - set(results))} gave no result in time")
        for reading in ready:
            assert isinstance(reading, Connection)
            rank = readings.index(reading)
            try:
                results[rank] = reading.recv()
            except EOFError:
                results[rank] = _Crash("the process died without a word")
            if isinstance(results[rank], _Crash):
                raise AssertionError(f"rank {rank} failed:\n{results[rank].text}")
    return [results[rank] for rank in range(len(readings))]


def _work(
    rank: int, world: int, port: int, results: Connection, case: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world),
        "GROUP_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo",
    }  # fmt: skip
    try:
        results.send(case(*arguments))
    except BaseException:  # noqa: BLE001  (told to the test, whatever it is)
        results.send(_Crash(traceback.format_exc()))
    results.close()
    # Process groups whose peers have crashed would wait for them at exit.
    os._exit(0)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
