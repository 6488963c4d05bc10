"""What happens beside training while a checkpoint is on its way: stories of one process, played by a fresh one."""

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from internvl_trainer.checkpoint.errors import CheckpointError, SeedError
from internvl_trainer.contract.base import RunIdentity
from internvl_trainer.contract.job import CheckpointConfig
from internvl_trainer.contract.manifest import StoredObject
from internvl_trainer.contract.retention import Retention
from internvl_trainer.storage import ObjectInfo, ObjectNotFoundError, ObjectStore, StoreUnavailableError
from tests.integration.checkpoint.stories import Result, Setting, train_state
from tests.integration.checkpoint.toy import Place, ToyEngine


class Gated(ObjectStore):
    """Takes no file until somebody opens the gate."""

    gate: ClassVar[threading.Event] = threading.Event()

    def upload(self, path: Path, uri: str) -> StoredObject:
        """As ever, later."""
        assert self.gate.wait(60)
        return super().upload(path, uri)


class Down(ObjectStore):
    """Answers no upload."""

    def upload(self, path: Path, uri: str) -> StoredObject:
        """Never."""
        raise StoreUnavailableError(f"cannot write {uri}")


class Unsteady(ObjectStore):
    """Fails the first time that each operation is asked for during a save, as a store does that is being restarted."""

    failed: ClassVar[set[str]] = set()

    def _once(self, operation: str, uri: str) -> None:
        if "step-" in uri and operation not in self.failed:
            self.failed.add(operation)
            raise StoreUnavailableError(f"cannot {operation} {uri}")

    def read(self, uri: str) -> bytes:
        """As ever, from the second time on."""
        self._once("read", uri)
        return super().read(uri)

    def stat(self, uri: str) -> ObjectInfo:
        """As ever, but not found the first time."""
        if "stat" not in self.failed:
            self.failed.add("stat")
            raise ObjectNotFoundError(f"cannot read {uri}")
        return super().stat(uri)

    def list(self, prefix_uri: str) -> Iterator[ObjectInfo]:
        """As ever, from the second time on."""
        self._once("list", prefix_uri)
        return super().list(prefix_uri)

    def put_if_absent(self, uri: str, payload: bytes) -> None:
        """As ever, from the second time on; then the look at what was written fails once."""
        self._once("put", uri)
        super().put_if_absent(uri, payload)
        if uri.endswith("MANIFEST.json") and "look" not in self.failed:
            self.failed = {*self.failed, "look"} - {"read"}


def trains_on_while_the_store_is_slow(setting: Setting) -> Result:
    """The save returns before the store has taken a byte, and holds what was there at its moment."""
    seen: Result = {}
    with setting.checkpointer(kind=Gated) as checkpointer:
        checkpointer.resume(ToyEngine(Place.of(0), 0))
        engine = ToyEngine(Place.of(0), 1)
        checkpointer.begin_save(engine, train_state(1))
        seen["committed too early"] = checkpointer.news()
        for weight in engine.weights.values():
            weight.zero_()  # training goes on
        Gated.gate.set()
        seen["committed"] = [(saved.step, saved.ref.uri.rsplit("/", 2)[1]) for saved in checkpointer.finish_saves()]
        seen["told once"] = checkpointer.finish_saves()
    other = ToyEngine(Place.of(0), 0)
    with setting.checkpointer(attempt=2) as later:
        later.resume(other)
    return seen | {"holds": all(other.holds(1).values())}


def a_failed_upload_is_raised_by_the_next_call(setting: Setting) -> Result:
    """The store is down; training learns of it at its next step, and the error is not told twice."""
    seen: Result = {}
    with setting.checkpointer(kind=Down) as checkpointer:
        checkpointer.begin_save(ToyEngine(Place.of(0), 1), train_state(1))
        try:
            checkpointer.finish_saves()
        except StoreUnavailableError as error:
            seen["raised"] = str(error)
        seen["afterwards"] = checkpointer.news()
    return seen


def a_failure_of_training_keeps_what_is_under_way(setting: Setting) -> Result:
    """Training ends by an error that all ranks agree on while a save is on its way: it is committed all the same."""
    Gated.gate.clear()
    threading.Timer(0.5, Gated.gate.set).start()
    try:
        with setting.checkpointer(kind=Gated) as checkpointer:
            checkpointer.begin_save(ToyEngine(Place.of(0), 1), train_state(1))
            raise SeedError("something that no retry cures")
    except SeedError:
        pass
    return {"left": [path.name for path in setting.scratch.iterdir()]}


def two_jobs_share_a_scratch(setting: Setting) -> Result:
    """While one job's shards are on their way, another one on the same machine makes its own."""
    Gated.gate.clear()
    other = RunIdentity(uid="uid-2", namespace="default", name="second")
    with setting.checkpointer(kind=Gated) as first:
        first.begin_save(ToyEngine(Place.of(0), 1), train_state(1))
        with setting.checkpointer(run=other) as second:
            second.save(ToyEngine(Place.of(0), 2), train_state(2))
        Gated.gate.set()
        first.finish_saves()
    return resumes_and_says(setting, 2)


def leaves_its_shards(setting: Setting) -> Result:
    """A job is killed with shards in scratch."""
    checkpointer = setting.checkpointer()
    checkpointer.save(ToyEngine(Place.of(0), 1), train_state(1))
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


def an_outage_at_every_exchange(setting: Setting) -> Result:
    """The store answers nothing for a moment, whatever a save asks of it first."""
    patient = CheckpointConfig(every_steps=1, patience_seconds=20)
    with setting.checkpointer(kind=Unsteady, checkpoint=patient) as checkpointer:
        ref = checkpointer.save(ToyEngine(Place.of(0), 1), train_state(1))
    return {"committed": ref.uri.rsplit("/", 3)[1]}


def keeps_the_last_two(setting: Setting, steps: int) -> Result:
    """A stage with retention saves some steps."""
    policy = CheckpointConfig(every_steps=1, retention=Retention(keep_last=2, keep_every=4), patience_seconds=0)
    settings = setting.job().optimization.model_copy(update={"steps": steps})
    with setting.checkpointer(checkpoint=policy, optimization=settings) as checkpointer:
        for step in range(1, steps + 1):
            checkpointer.save(ToyEngine(Place.of(0), step), train_state(step))
    return {}


def a_zombie_goes_on_after_it_was_replaced(setting: Setting) -> Result:
    """Attempt 1 saves step 1 and is given up for lost; attempt 2 goes on from there; attempt 1 is still alive."""
    seen: Result = {}
    longer: dict[str, Any] = {"optimization": setting.job().optimization.model_copy(update={"steps": 9})}
    with setting.checkpointer(**longer) as zombie:
        zombie.resume(ToyEngine(Place.of(0), 0))
        zombie.save(ToyEngine(Place.of(0), 1), train_state(1))
        with setting.checkpointer(attempt=2, **longer) as successor:
            successor.resume(ToyEngine(Place.of(0), 0))
            try:
                zombie.save(ToyEngine(Place.of(0), 5), train_state(5))
            except CheckpointError as error:
                seen["told"] = f"{type(error).__name__}: {error}"
            successor.save(ToyEngine(Place.of(0), 2), train_state(2))
    return seen


def resumes_and_says(setting: Setting, attempt: int, **changes: Any) -> Result:
    """Which step an attempt goes on from, or what it says."""
    engine = ToyEngine(Place.of(0), 0)
    try:
        with setting.checkpointer(attempt=attempt, **changes) as checkpointer:
            state = checkpointer.resume(engine)
    except CheckpointError as error:
        return {"said": f"{type(error).__name__}: {error}"}
    step = state.step if state else 0
    return {"step": step, "holds": all(engine.holds(step).values())}


def with_other_seeds(setting: Setting) -> Result:
    """The same stage with another seed."""
    settings = setting.job().optimization.model_copy(update={"seed": 7})
    return resumes_and_says(setting, 2, optimization=settings)
