"""Processes that load packs for a trainer process: torch's DataLoader, with what it leaves open.

It leaves open that an error keeps its type and exit code on its way, that the death of a worker is noticed at once and
says by what, and that workers end with their trainer, which is not their parent: a fork server is.
"""

import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import connection
from multiprocessing.context import ForkServerContext, ForkServerProcess
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch.utils.data import DataLoader, Dataset

from internvl_trainer.contract.exit_codes import ExitCode
from internvl_trainer.data.pack import Pack
from internvl_trainer.data.walk import PackKey
from internvl_trainer.train.batches import Batch, PackLoader, Plan
from internvl_trainer.train.prefetch import Prefetch

_START = "forkserver"


class LoaderWorkerDiedError(RuntimeError):
    """A loader process is gone without a word: killed, or crashed in a library."""

    exit_code: ClassVar[ExitCode] = ExitCode.PEER_LOST

    def __init__(self, pid: int, code: int) -> None:
        how = f"was killed by signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"ended with code {code}"
        super().__init__(
            f"loader process {pid} {how}; after SIGKILL look for the pod's memory limit (raise resources.memory or use "
            "fewer data.workers), after SIGBUS for its shared memory (resources.sharedMemory)"
        )


def preload() -> None:
    """Have a fork server import what workers need, while this process does other things. Returns at once."""
    context = multiprocessing.get_context(_START)
    context.set_forkserver_preload([__name__])
    from multiprocessing import forkserver

    forkserver.ensure_running()


def load_by_workers(
    loader: PackLoader, plans: Iterable[Plan], prefetch: Prefetch, *, pin: bool, died: Callable[[Exception], None]
) -> Iterator[Batch]:
    """The steps of `plans`, in order, their packs loaded by processes; closing the generator ends them.

    Args:
        loader: goes to each worker by pickle.
        plans: asked for ahead of the steps that are yielded.
        prefetch: how many workers, and how far ahead.
        pin: copy tiles to pinned memory as they arrive, for copies to a CUDA device that nobody waits for.
        died: told of a worker that died, at once and from another thread: whoever waits here might wait for ever.

    Raises:
        Exception: what a worker raised, with its type, when the pack's turn comes.
    """
    pending: deque[Plan] = deque()

    def keys() -> Iterator[PackKey]:
        for plan in plans:
            pending.append(plan)
            yield from plan.keys

    context = _RecordingContext()
    parcels: Iterator[_Parcel | _Fault] = iter(
        DataLoader(
            _Packs(loader),
            batch_size=None,
            sampler=keys(),
            num_workers=prefetch.workers,
            prefetch_factor=prefetch.per_worker,
            multiprocessing_context=context,
            collate_fn=_as_it_is,
            worker_init_fn=partial(_begin, dict(os.environ)),
            pin_memory=pin,
            # Without one it would draw from the generator that training draws from.
            generator=torch.Generator(),
        )
    )
    ending = threading.Event()
    watch = threading.Thread(target=_watch, args=(context.started, ending, died), name="loader-watch", daemon=True)
    watch.start()
    try:
        packs: list[Pack] = []
        for parcel in parcels:
            packs.append(parcel.unpacked())
            if len(packs) == len(pending[0].keys):
                yield Batch(packs, pending.popleft().position)
                packs = []
    finally:
        ending.set()
        del parcels


class _Packs(Dataset["_Parcel | _Fault"]):
    """The loader as a map from keys to what travels."""

    def __init__(self, loader: PackLoader) -> None:
        self._loader = loader

    def __getitem__(self, key: PackKey) -> "_Parcel | _Fault":
        try:
            return _Parcel.of(self._loader.load(key))
        except Exception as error:  # noqa: BLE001  (raised again in the trainer)
            return _Fault.of(error)


@dataclass(frozen=True)
class _Parcel:
    """A pack on its way. Only torch's tensors travel through shared memory, so its tiles are one; pickle has the rest.

    Attributes:
        pack: without tiles.
        tiles_NHWC: uint8.
    """

    pack: Pack
    tiles_NHWC: torch.Tensor

    @classmethod
    def of(cls, pack: Pack) -> Self:
        """A pack with tiles."""
        return cls(replace(pack, tiles_NHWC=None), torch.from_numpy(pack.tiles_NHWC))

    def pin_memory(self) -> "_Parcel":
        """The same with its tiles in pinned memory; DataLoader calls this."""
        return replace(self, tiles_NHWC=self.tiles_NHWC.pin_memory())

    def unpacked(self) -> Pack:
        """The pack, its tiles where they arrived."""
        return replace(self.pack, tiles_NHWC=self.tiles_NHWC.numpy())


class _Fault(NamedTuple):
    """An exception on its way. Many types cannot be pickled, as their constructors take other arguments than `args`."""

    kind: type[Exception]
    state: tuple[tuple[Any, ...], dict[str, Any]]
    where: str

    @classmethod
    def of(cls, error: Exception) -> Self:
        """An exception that has been caught."""
        where = "".join(traceback.format_exception(error))
        fault = cls(type(error), (error.args, error.__dict__), where)
        try:
            pickle.loads(pickle.dumps(fault)).revived()
        except Exception:  # noqa: BLE001  (it has something in it that cannot travel: its words can)
            return cls(RuntimeError, ((f"{type(error).__name__}: {error}",), {}), where)
        return fault

    def revived(self) -> Exception:
        """The exception, made without its constructor."""
        arguments, attributes = self.state
        error = self.kind.__new__(self.kind, *arguments)
        error.__dict__.update(attributes)
        return error

    def unpacked(self) -> Pack:
        """Raise it."""
        error = self.revived()
        error.add_note(f"In a loader process:\n{self.where}")
        raise error


class _RecordingContext(ForkServerContext):
    """The fork server, and a memory of the processes that were started by it."""

    def __init__(self) -> None:
        self.started: list[ForkServerProcess] = []

    def Process(self, *arguments: Any, **options: Any) -> ForkServerProcess:  # type: ignore[override]  # noqa: N802
        process = ForkServerProcess(*arguments, **options)
        self.started.append(process)
        return process


def _as_it_is[T](item: T) -> T:
    return item


def _watch(workers: Sequence[ForkServerProcess], ending: threading.Event, died: Callable[[Exception], None]) -> None:
    connection.wait([worker.sentinel for worker in workers])
    if ending.is_set():
        return
    dead = next(worker for worker in workers if worker.exitcode is not None)
    died(LoaderWorkerDiedError(dead.pid or 0, dead.exitcode or 0))


def _begin(environment: dict[str, str], worker: int) -> None:
    """In a worker: take the trainer's environment, which a fork server started before may lack; end when it ends."""
    os.environ.clear()
    os.environ.update(environment)
    threading.Thread(target=_wait_for_trainer, name="trainer-watch", daemon=True).start()


def _wait_for_trainer() -> None:
    trainer = multiprocessing.parent_process()
    if trainer is not None:
        trainer.join()
        os._exit(1)
