"""Worker processes that each make something of one argument after the other; results come in the arguments' order."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from typing import Any, ClassVar

from internvl_trainer.contract.exit_codes import ExitCode
from internvl_trainer.processes.pool import WorkerPool

AHEAD = 4
"""Arguments under way for each worker: as many results as that may be held until an earlier one is done."""


class WorkerDiedError(RuntimeError):
    """A worker process ended without an answer: killed, by a person or for want of memory, or crashed."""

    exit_code: ClassVar[ExitCode] = ExitCode.PEER_LOST


def run_in_order[Argument, Result](
    arguments: Iterable[Argument],
    work: Callable[[Argument], Result],
    *,
    workers: int,
    begin: Callable[..., None],
    given: tuple[object, ...],
    describe: Callable[[Argument], str],
) -> Generator[tuple[Argument, Result]]:
    """Each argument with what `work` made of it, in order; a bounded number of them is under way at a time.

    Args:
        work: called in a worker process; an exception of it is raised here.
        begin: called once in every worker process, with `given`.
        describe: what a worker had in hand, for the message when it dies.

    Raises:
        WorkerDiedError: names what the workers may have had in hand.
    """
    under_way: deque[tuple[Argument, Future[Result]]] = deque()
    with WorkerPool(workers, start="forkserver", begin=begin, given=given) as pool:
        try:
            for argument in arguments:
                under_way.append((argument, pool.submit(work, argument)))
                if len(under_way) == AHEAD * workers:
                    yield under_way[0][0], under_way[0][1].result()
                    under_way.popleft()
            while under_way:
                yield under_way[0][0], under_way[0][1].result()
                under_way.popleft()
        except BrokenProcessPool as error:
            held = [describe(argument) for argument, future in under_way if not _has_result(future)][:workers]
            raise WorkerDiedError(
                f"a worker process died: killed, out of memory, or a decoder crashed. In hand were {'; '.join(held)}. "
                "Use fewer --workers if memory ran out, else leave out what crashes it"
            ) from error


def _has_result(future: "Future[Any]") -> bool:
    return future.done() and not future.cancelled() and future.exception() is None
