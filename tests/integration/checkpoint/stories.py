"""What the processes of a test job do, each story in one launch: starting them costs more than the stories."""

import dataclasses
import json
import os
import signal
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from internvl_trainer.contract import catalog
from internvl_trainer.contract.base import Component, RunIdentity
from internvl_trainer.contract.job import CheckpointConfig, DataConfig, JobConfig, OptimizationConfig, StorageConfig
from internvl_trainer.contract.manifest import ManifestRef, ParallelLayout
from internvl_trainer.storage import ObjectStore, open_store

Result = dict[str, Any]


def job_config(settings: dict[str, Any], **changes: Any) -> JobConfig:
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
        "checkpoint": CheckpointConfig(every_steps=1, publish=(Component.VISION,)),
        "storage": StorageConfig(uri=settings["storage"], endpoint_url=settings.get("endpoint")),
    }
    return JobConfig(**{**fields, **changes})


def store_of(settings: dict[str, Any]) -> ObjectStore:
    """The store that the settings name."""
    return open_store(endpoint_url=settings.get("endpoint"), region="us-east-1")


def train_state(step: int) -> Any:
    """Where training stands after `step` steps."""
    from internvl_trainer.checkpoint.state import StepMetrics, TrainState

    metrics = tuple(
        StepMetrics(step=each, loss=3 / each, grad_norm=1, learning_rate=1e-4, tokens=100, tiles=5, seconds=0.5)
        for each in range(1, step + 1)
    )
    return TrainState(step=step, tokens=100 * step, data_packs=4 * step, metrics=metrics)


def whole_life(settings: dict[str, Any]) -> Result:
    """TP2 x PP2 on two nodes: nothing to resume, save twice, save again, publish, resume as PP4 and as TP2 x DP2."""
    import torch.distributed as dist

    from internvl_trainer.checkpoint.checkpointer import Checkpointer
    from tests.integration.checkpoint.toy import Place, ToyEngine

    rank, scratch, store = dist.get_rank(), Path(settings["scratch"]), store_of(settings)
    job = job_config(settings, layout=ParallelLayout(tensor=2, pipeline=2))
    checkpointer = Checkpointer(job, store, scratch)
    seen: Result = {"nothing": checkpointer.resume(ToyEngine(Place.of(rank, pipeline=4), 0)) is None}
    for step in (1, 2):
        engine = ToyEngine(Place.of(rank, tensor=2, pipeline=2), step)
        ref = checkpointer.save(engine, train_state(step))
        seen[f"ref{step}"] = ref.model_dump()
    seen["again"] = checkpointer.save(engine, train_state(2)).model_dump()
    seen["published"] = checkpointer.publish(ref)
    seen["published again"] = checkpointer.publish(ref)
    for name, place in {
        "PP4": Place.of(rank, pipeline=4),
        "TP2 DP2": Place.of(rank, tensor=2, data=2),
    }.items():
        other, later = ToyEngine(place, 0), Checkpointer(job_config(settings, attempt=2), store, scratch)
        state = later.resume(other)
        seen[name] = {
            "state": state == train_state(2),
            "holds": all(other.holds(2).values()),
            "step": other.optimizer_step,
        }
    return seen


def refuses(settings: dict[str, Any]) -> Result:
    """One process meets everything that a checkpointer must not do; what it said, by the name of the case."""
    from internvl_trainer.checkpoint.checkpointer import Checkpointer
    from internvl_trainer.checkpoint.errors import CheckpointError
    from internvl_trainer.storage import AlreadyExistsError
    from tests.integration.checkpoint.toy import Place, ToyEngine

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

    scratch, engine, said = Path(settings["scratch"]), ToyEngine(Place.of(0), 1), {}

    def tell(case: str, action: Callable[[], Any]) -> None:
        try:
            said[case] = f"done: {action()}"
        except CheckpointError as error:
            said[case] = f"{type(error).__name__}: {error}"

    def checkpointer(stage: str, kind: type[ObjectStore] = ObjectStore) -> Checkpointer:
        store = store_of(settings)
        store.__class__ = kind
        return Checkpointer(job_config(settings, stage=stage), store, scratch)

    tell("no step", lambda: checkpointer("empty").save(engine, train_state(0)))
    first = checkpointer("twice").save(engine, train_state(1))
    tell("not final", lambda: checkpointer("twice").publish(first))
    other = dataclasses.replace(train_state(1), tokens=999)
    tell("other tokens", lambda: checkpointer("twice").save(engine, other))
    tell("rival", lambda: checkpointer("rival", Rival).save(engine, train_state(2)))
    tell("lost answer", lambda: checkpointer("lost", LostAnswer).save(engine, train_state(2)))
    return said


def each_node_fetches_its_own(settings: dict[str, Any]) -> Result:
    """Two nodes save as PP2 and resume as PP2: what this node downloaded."""
    import torch.distributed as dist

    from internvl_trainer.checkpoint.checkpointer import Checkpointer
    from tests.integration.checkpoint.toy import Place, ToyEngine

    class Counting(ObjectStore):
        downloads: list[str] = []

        def download(self, uri: str, path: Path) -> Any:
            self.downloads.append(uri.rsplit("/", 1)[-1])
            return super().download(uri, path)

    place, store = Place.of(dist.get_rank(), pipeline=2), store_of(settings)
    store.__class__ = Counting
    checkpointer = Checkpointer(job_config(settings, stage="own"), store, Path(settings["scratch"]))
    checkpointer.save(ToyEngine(place, 1), train_state(1))
    engine = ToyEngine(place, 0)
    checkpointer.resume(engine)
    return {"holds": all(engine.holds(1).values()), "downloads": sorted(Counting.downloads)}


def one_node_cannot_upload(settings: dict[str, Any]) -> Result:
    """Node 1 has a store that does not answer: every rank must learn of it, and nothing may be committed."""
    import torch.distributed as dist

    from internvl_trainer.checkpoint.checkpointer import Checkpointer
    from internvl_trainer.storage import StoreUnavailableError
    from tests.integration.checkpoint.toy import Place, ToyEngine

    rank = dist.get_rank()
    cut_off = {**settings, "endpoint": "http://127.0.0.1:9"} if os.environ["GROUP_RANK"] == "1" else settings
    checkpointer = Checkpointer(job_config(settings, stage="cut-off"), store_of(cut_off), Path(settings["scratch"]))
    try:
        checkpointer.save(ToyEngine(Place.of(rank, tensor=2), 1), train_state(1))
    except StoreUnavailableError as error:
        return {"error": str(error)}
    return {"error": None}


def saves(settings: dict[str, Any]) -> Result:
    """One process saves the steps it is told to."""
    from internvl_trainer.checkpoint.checkpointer import Checkpointer
    from tests.integration.checkpoint.toy import Place, ToyEngine

    checkpointer = Checkpointer(job_config(settings), store_of(settings), Path(settings["scratch"]))
    refs = [checkpointer.save(ToyEngine(Place.of(0), step), train_state(step)) for step in settings["steps"]]
    return {"refs": [ref.model_dump() for ref in refs]}


def dies_before_the_manifest(settings: dict[str, Any]) -> Result:
    """Step 1 is committed; at step 2 the process is killed when all shards are up and the manifest is not."""
    from internvl_trainer.checkpoint.checkpointer import Checkpointer
    from tests.integration.checkpoint.toy import Place, ToyEngine

    class Doomed(ObjectStore):
        def put_if_absent(self, uri: str, payload: bytes) -> None:
            if "step-00000002" in uri:
                os.kill(os.getpid(), signal.SIGKILL)
            super().put_if_absent(uri, payload)

    store = store_of(settings)
    store.__class__ = Doomed
    checkpointer = Checkpointer(job_config(settings), store, Path(settings["scratch"]))
    for step in (1, 2):
        checkpointer.save(ToyEngine(Place.of(0), step), train_state(step))
    return {}


def resumes(settings: dict[str, Any]) -> Result:
    """One process resumes as the given attempt and tells what it found."""
    from internvl_trainer.checkpoint.checkpointer import Checkpointer
    from tests.integration.checkpoint.toy import Place, ToyEngine

    job = job_config(settings, attempt=settings["attempt"])
    engine = ToyEngine(Place.of(0), 0)
    state = Checkpointer(job, store_of(settings), Path(settings["scratch"])).resume(engine)
    step = state.step if state else 0
    return {"step": step, "holds": all(engine.holds(step).values())}


def hands_the_vit_on(settings: dict[str, Any]) -> Result:
    """A second, smaller run starts its ViT from the first run's published one, trains it, and hands it to a third."""
    from internvl_trainer.checkpoint.checkpointer import Checkpointer
    from internvl_trainer.checkpoint.errors import GeometryMismatchError
    from internvl_trainer.checkpoint.load import load_model
    from tests.integration.checkpoint.toy import Place, ToyEngine

    class Counting(ObjectStore):
        downloads: list[str] = []

        def download(self, uri: str, path: Path) -> Any:
            self.downloads.append(uri.rsplit("/", 1)[-1])
            return super().download(uri, path)

    scratch, store = Path(settings["scratch"]), store_of(settings)
    store.__class__ = Counting
    vision = ManifestRef(**settings["vision"])
    small = {
        "run": RunIdentity(uid="uid-2", namespace="default", name="second"),
        "model": catalog.get("tiny-1b-like"),
        "init": {Component.VISION: vision},
    }
    engine = ToyEngine(Place.of(0), 9)
    second = Checkpointer(job_config(settings, **small), store, scratch)
    second.initialise(engine)
    seen: Result = {"after": engine.holds(2), "untouched": engine.holds(9), "downloads": sorted(Counting.downloads)}
    ref = second.save(engine, train_state(2))
    seen["second"] = ref.model_dump()

    third_run = {**small, "run": RunIdentity(uid="uid-3", namespace="default", name="third")}
    from_second = dict.fromkeys(Component, ref)
    third = Checkpointer(job_config(settings, **{**third_run, "init": from_second}), store, scratch)
    third.initialise(engine)
    seen["third"] = third.save(engine, train_state(1)).model_dump()

    larger_vit = job_config(settings, **{**third_run, "model": catalog.get("InternVL2_5-1B")})
    try:
        Checkpointer(larger_vit, store, scratch).initialise(engine)
    except GeometryMismatchError as error:
        seen["mismatch"] = str(error)

    fresh = ToyEngine(Place.of(0), 0)
    manifest = load_model(
        ManifestRef(**settings["checkpoint"]), fresh, store, scratch, geometry=catalog.get("tiny-8b-like")
    )
    seen["evaluation"] = {"step": manifest.step, "holds": fresh.holds(2)}
    return seen


def main() -> None:
    """Join the job, play the story, and leave what was seen in a file."""
    from internvl_trainer.engine import cpu_shim

    cpu_shim.install()
    import logging

    import torch
    import torch.distributed as dist

    logging.basicConfig(level=logging.INFO)
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    story: Callable[[dict[str, Any]], Result] = globals()[sys.argv[1]]
    settings = json.loads(sys.argv[2])
    Path(settings["scratch"]).mkdir(parents=True, exist_ok=True)
    result = story(settings)
    Path(sys.argv[3], f"{dist.get_rank():02d}.json").write_text(json.dumps(result))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
