"""What the processes of a test job do. Each story is played by fresh processes, on nodes that share no scratch."""

import dataclasses
import logging
import os
import signal
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from internvl_trainer.checkpoint.checkpointer import Checkpointer
from internvl_trainer.checkpoint.errors import CheckpointError, GeometryMismatchError
from internvl_trainer.checkpoint.load import load_model
from internvl_trainer.checkpoint.peers import Peers
from internvl_trainer.checkpoint.state import StepMetrics, TrainState
from internvl_trainer.contract import catalog
from internvl_trainer.contract.base import Component, RunIdentity
from internvl_trainer.contract.data_position import DataPosition
from internvl_trainer.contract.job import CheckpointConfig, DataConfig, JobConfig, OptimizationConfig, StorageConfig
from internvl_trainer.contract.manifest import ManifestRef, ParallelLayout
from internvl_trainer.storage import AlreadyExistsError, ObjectStore, StoreUnavailableError, open_store
from tests.integration.checkpoint.toy import Place, ToyEngine
from tests.integration.trainer.grid import on_ranks

Result = dict[str, Any]
LOG = "log"


@dataclasses.dataclass(frozen=True)
class Setting:
    """Where a story plays: `folder` has a scratch folder for each node, and the store unless `storage` is elsewhere."""

    folder: Path
    storage: str
    endpoint: str | None = None
    environment: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def scratch(self) -> Path:
        """This node's scratch."""
        return self.folder / f"node{os.environ['GROUP_RANK']}"

    def store(self, kind: type[ObjectStore] = ObjectStore) -> ObjectStore:
        """The story's store, of a kind that may misbehave."""
        store = open_store(endpoint_url=self.endpoint, region="us-east-1")
        store.__class__ = kind
        return store

    def job(self, **changes: Any) -> JobConfig:
        """A job of two steps; `changes` replace fields."""
        fields = {
            "run": RunIdentity(uid="uid-1", namespace="default", name="first"),
            "stage": "stage1",
            "attempt": 1,
            "model": catalog.get("tiny-8b-like"),
            "layout": ParallelLayout(),
            "trainable": (Component.VISION, Component.PROJECTOR),
            "data": DataConfig(meta="/nowhere/meta.json", tokenizer="/nowhere"),
            "optimization": OptimizationConfig(steps=2, peak_lr=1e-4, global_batch=4),
            "checkpoint": CheckpointConfig(every_steps=1, publish=(Component.VISION,), patience_seconds=0),
            "storage": StorageConfig(uri=self.storage, endpoint_url=self.endpoint),
        }
        return JobConfig(**{**fields, **changes})

    def checkpointer(self, *, kind: type[ObjectStore] = ObjectStore, **changes: Any) -> Checkpointer:
        """A checkpointer of `job(**changes)`."""
        return Checkpointer(self.job(**changes), self.store(kind), self.scratch)


class Counting(ObjectStore):
    """Remembers of which objects ranges were read."""

    downloads: list[str] = []

    def read_range(self, uri: str, offset: int, length: int, *, etag: str = "") -> bytes:
        """As ever."""
        self.downloads.append(uri.rsplit("/", 1)[-1])
        return super().read_range(uri, offset, length, etag=etag)


def run_story(
    story: Callable[..., Result], setting: Setting, *arguments: Any, nodes: int = 1, per_node: int = 1
) -> list[Result]:
    """Play a story as a job of `nodes` x `per_node` processes: what each rank saw, with its log under `LOG`."""
    return on_ranks(nodes * per_node, _play, story, setting, per_node, arguments)


def _play(story: Callable[..., Result], setting: Setting, per_node: int, arguments: tuple[Any, ...]) -> Result:
    rank = int(os.environ["RANK"])
    os.environ |= setting.environment
    os.environ |= {"LOCAL_RANK": str(rank % per_node), "GROUP_RANK": str(rank // per_node)}
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    seen = story(setting, *arguments)
    dist.destroy_process_group()
    return {**seen, LOG: "\n".join(messages)}


def train_state(step: int) -> TrainState:
    """Where training stands after `step` steps."""
    metrics = tuple(
        StepMetrics(step=each, loss=3 / each, grad_norm=1, learning_rate=1e-4, tokens=100, tiles=5, seconds=0.5)
        for each in range(1, step + 1)
    )
    return TrainState(step=step, tokens=100 * step, data=DataPosition(packs=4 * step), metrics=metrics)


def whole_life(setting: Setting) -> Result:
    """TP2 x PP2 on two nodes: nothing to resume, save twice, save again, publish, resume as PP4 and as TP2 x DP2."""
    rank = dist.get_rank()
    with setting.checkpointer(layout=ParallelLayout(tensor=2, pipeline=2)) as checkpointer:
        seen: Result = {"nothing": checkpointer.resume(ToyEngine(Place.of(rank, pipeline=4), 0)) is None}
        for step in (1, 2):
            engine = ToyEngine(Place.of(rank, tensor=2, pipeline=2), step)
            ref = seen[f"ref{step}"] = checkpointer.save(engine, train_state(step))
        seen["again"] = checkpointer.save(engine, train_state(2))
        seen["published"] = checkpointer.publish(ref)
        seen["published again"] = checkpointer.publish(ref)
    for name, place in {
        "PP4": Place.of(rank, pipeline=4),
        "TP2 DP2": Place.of(rank, tensor=2, data=2),
    }.items():
        other = ToyEngine(place, 0)
        with setting.checkpointer(attempt=2) as later:
            state = later.resume(other)
        exact = state == train_state(2) and all(other.holds(2).values())
        seen[name] = {"exact": exact, "step": other.optimizer_step}
    return seen


def saves(setting: Setting, steps: list[int]) -> Result:
    """One process saves the steps it is told to."""
    with setting.checkpointer() as checkpointer:
        return {"refs": [checkpointer.save(ToyEngine(Place.of(0), step), train_state(step)) for step in steps]}


def resumes(setting: Setting, attempt: int) -> Result:
    """One process resumes as the given attempt and tells what it found."""
    engine = ToyEngine(Place.of(0), 0)
    state = setting.checkpointer(attempt=attempt).resume(engine)
    step = state.step if state else 0
    return {"step": step, "holds": all(engine.holds(step).values())}


def each_node_fetches_its_own(setting: Setting) -> Result:
    """Two nodes save as PP2 and resume as PP2: what this node downloaded."""
    place = Place.of(dist.get_rank(), pipeline=2)
    checkpointer = setting.checkpointer(kind=Counting)
    checkpointer.save(ToyEngine(place, 1), train_state(1))
    engine = ToyEngine(place, 0)
    checkpointer.resume(engine)
    return {"holds": all(engine.holds(1).values()), "downloads": sorted(Counting.downloads)}


def one_node_cannot_upload(setting: Setting) -> Result:
    """Node 1 has a store that does not answer: every rank must learn of it, and nothing may be committed."""
    if os.environ["GROUP_RANK"] == "1":
        setting = dataclasses.replace(setting, endpoint="http://127.0.0.1:9")
    engine = ToyEngine(Place.of(dist.get_rank(), tensor=2), 1)
    try:
        with setting.checkpointer(stage="cut-off") as checkpointer:
            checkpointer.save(engine, train_state(1))
    except StoreUnavailableError as error:
        return {"error": str(error)}
    return {"error": None}


def waits_for_a_slow_upload() -> Result:
    """Two nodes, of which the second transfers for longer than training's own group waits. Plays without `_play`."""
    rank, patience = int(os.environ["RANK"]), timedelta(seconds=3)
    os.environ |= {"LOCAL_RANK": "0", "GROUP_RANK": str(rank)}
    store = dist.TCPStore("127.0.0.1", int(os.environ["MASTER_PORT"]), 2, is_master=rank == 0)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2, timeout=patience)
    peers = Peers.from_environment()

    def slow_on_node_1() -> str:
        time.sleep(2 * patience.total_seconds() * peers.node)
        return f"node {peers.node}"

    seen: Result = {"uploads": peers.each_node(slow_on_node_1)}
    try:
        slow_on_node_1()
        dist.barrier()
    except RuntimeError as error:
        seen["training"] = str(error)
    return seen


def dies_before_the_manifest(setting: Setting) -> Result:
    """Step 1 is committed; at step 2 the process is killed when all shards are up and the manifest is not."""

    class Doomed(ObjectStore):
        def put_if_absent(self, uri: str, payload: bytes) -> None:
            if "step-00000002" in uri:
                os.kill(os.getpid(), signal.SIGKILL)
            super().put_if_absent(uri, payload)

    checkpointer = setting.checkpointer(kind=Doomed)
    for step in (1, 2):
        checkpointer.save(ToyEngine(Place.of(0), step), train_state(step))
    return {}


def refuses(setting: Setting) -> Result:
    """One process meets everything that a checkpointer must not do; what it said, by the name of the case."""

    class Rival(ObjectStore):
        """Another process of the same attempt is a moment faster."""

        def put_if_absent(self, uri: str, payload: bytes) -> None:
            super().put_if_absent(uri, payload.replace(b'"tokens": 200', b'"tokens": 201'))
            super().put_if_absent(uri, payload)

    class LostAnswer(ObjectStore):
        """The put arrives, its answer does not, and the client's own retry finds the object."""

        def put_if_absent(self, uri: str, payload: bytes) -> None:
            super().put_if_absent(uri, payload)
            raise AlreadyExistsError(uri)

    engine, said = ToyEngine(Place.of(0), 1), {}
    larger = setting.job().optimization.model_copy(update={"global_batch": 8})

    def tell(case: str, action: Callable[[], Any]) -> None:
        try:
            said[case] = f"done: {action()}"
        except CheckpointError as error:
            said[case] = f"{type(error).__name__}: {error}"

    twice = setting.checkpointer(stage="twice")
    tell("no step", lambda: twice.save(engine, train_state(0)))
    first = twice.save(engine, train_state(1))
    tell("other batch", lambda: setting.checkpointer(stage="twice", attempt=2, optimization=larger).resume(engine))
    tell("not final", lambda: twice.publish(first))
    tell("other tokens", lambda: twice.save(engine, dataclasses.replace(train_state(1), tokens=999)))
    Path(first.uri.removeprefix("file://")).with_name(".metadata").unlink()
    tell("damaged", lambda: twice.save(engine, train_state(1)))
    tell("rival", lambda: setting.checkpointer(stage="rival", kind=Rival).save(engine, train_state(2)))
    tell("lost answer", lambda: setting.checkpointer(stage="lost", kind=LostAnswer).save(engine, train_state(2)))
    return said


def hands_the_vit_on(setting: Setting, published: ManifestRef, checkpoint: ManifestRef) -> Result:
    """A second, smaller run starts its ViT from the first run's published one, trains it, and hands it to a third."""
    small: dict[str, Any] = {
        "run": RunIdentity(uid="uid-2", namespace="default", name="second"),
        "model": catalog.get("tiny-1b-like"),
        "init": {Component.VISION: published},
    }
    engine = ToyEngine(Place.of(0), 9)
    second = setting.checkpointer(kind=Counting, **small)
    second.initialise(engine)
    seen: Result = {"after": engine.holds(2), "untouched": engine.holds(9), "downloads": sorted(Counting.downloads)}
    ref = seen["second"] = second.save(engine, train_state(2))

    third_run: dict[str, Any] = {**small, "run": RunIdentity(uid="uid-3", namespace="default", name="third")}
    third = setting.checkpointer(**{**third_run, "init": dict.fromkeys(Component, ref)})
    third.initialise(engine)
    seen["third"] = third.save(engine, train_state(1))

    larger_vit = setting.checkpointer(**{**third_run, "model": catalog.get("InternVL2_5-1B")})
    try:
        larger_vit.initialise(engine)
    except GeometryMismatchError as error:
        seen["mismatch"] = str(error)

    fresh, geometry = ToyEngine(Place.of(0), 0), catalog.get("tiny-8b-like")
    load_model(checkpoint, fresh, setting.store(), setting.scratch, geometry=geometry)
    seen["evaluation"] = fresh.holds(2)
    return seen
