"""Our own contender: the trainer's Checkpointer with all that it does, from tensors to a committed manifest and back.

One process; half of the tensors are the model's, half the optimizer's. What is timed is a save in the middle of
training: the one before it, which makes the shard files and starts the processes, is a preparation (its time is told on
stderr). A resume is a new attempt's, as after a crash: it looks for the newest checkpoint, verifies it, and reads every
block against its digest.
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import torch
import torch.distributed as dist

from bench.checkpoint.contender import Task
from bench.checkpoint.workload import check_state_dict, state_dict
from internvl_trainer.checkpoint.checkpointer import Checkpointer
from internvl_trainer.checkpoint.state import StepMetrics, TrainState
from internvl_trainer.contract import catalog
from internvl_trainer.contract.base import Component, RunIdentity
from internvl_trainer.contract.data_position import DataPosition
from internvl_trainer.contract.job import CheckpointConfig, DataConfig, JobConfig, OptimizationConfig, StorageConfig
from internvl_trainer.contract.manifest import ParallelLayout
from internvl_trainer.engine import cpu_shim
from internvl_trainer.storage import open_store

# Before anything imports megatron.core.
cpu_shim.install()

from megatron.core.dist_checkpointing import ShardedTensor  # noqa: E402

STEPS = 2


class Tensors:
    """An engine that has nothing but tensors: `Checkpointable`."""

    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        names = sorted(tensors)
        self._tensors = tensors
        self._model, self._optimizer = names[::2], names[1::2]

    def sharded_model_state(self) -> dict[str, Any]:
        """See `Checkpointable`."""
        return {f"language_model.{name}": self._sharded(f"language_model.{name}", name) for name in self._model}

    def load_model_state(self, state: Mapping[str, Any]) -> None:
        """In place, as megatron.core loads; what comes is what lies there already."""

    def sharded_optimizer_state(self) -> dict[str, Any]:
        """See `Checkpointable`."""
        return {"tensors": {name: self._sharded(f"optimizer.{name}", name) for name in self._optimizer}, "step": STEPS}

    def load_optimizer_state(self, state: Mapping[str, Any]) -> None:
        """The same."""

    def _sharded(self, key: str, name: str) -> ShardedTensor:
        return ShardedTensor.from_rank_offsets(key, self._tensors[name])


class Ours:
    """Tensors to a committed checkpoint, and a resume from it."""

    def __init__(self) -> None:
        self._task: Task | None = None
        self._tensors: dict[str, torch.Tensor] = {}
        self._checkpointer: Checkpointer | None = None
        self._folder = tempfile.TemporaryDirectory()
        os.environ |= {"LOCAL_RANK": "0", "GROUP_RANK": "0"}
        dist.init_process_group("gloo", init_method=f"file://{self._folder.name}/store", rank=0, world_size=1)

    def prepare(self, task: Task) -> None:
        """See `Contender.prepare`."""
        self.close_checkpointer()
        self._task = task
        self._tensors = state_dict(task.shards)
        self._checkpointer = self._made(attempt=1)
        self._checkpointer.resume(Tensors(self._tensors))
        begun = time.perf_counter()
        wait = self._begin_save(1)
        blocked = time.perf_counter() - begun
        wait()
        total = time.perf_counter() - begun
        print(f"ours, first save: blocked {blocked:.3f} s, stored in {total:.2f} s", file=sys.stderr)  # noqa: T201

    def save(self) -> Callable[[], None]:
        """See `Contender.save`: training stands still for the copy, a thread and processes do the rest."""
        return self._begin_save(STEPS)

    def _begin_save(self, step: int) -> Callable[[], None]:
        assert self._checkpointer is not None
        checkpointer = self._checkpointer
        metrics = StepMetrics(step=step, loss=1, grad_norm=1, learning_rate=1, tokens=1, tiles=1, seconds=1)
        checkpointer.begin_save(Tensors(self._tensors), TrainState(step, step, DataPosition(packs=step), (metrics,)))

        def wait() -> None:
            checkpointer.finish_saves()

        return wait

    def load(self) -> None:
        """See `Contender.load`."""
        self.close_checkpointer()
        for tensor in self._tensors.values():
            tensor.view(torch.uint8)[::4096] ^= 1  # or nothing would tell whether anything was loaded into them
        with self._made(attempt=2) as checkpointer:
            state = checkpointer.resume(Tensors(self._tensors))
        assert state is not None, "the checkpoint was not found"

    def check(self) -> None:
        """See `Contender.check`."""
        assert self._task is not None
        check_state_dict(self._tensors, self._task.shards)

    def processes(self) -> Sequence[int]:
        """Uploaders: every child of this process, and theirs."""
        return [process.pid for process in psutil.Process().children(recursive=True)]

    def close(self) -> None:
        """See `Contender.close`."""
        self.close_checkpointer()
        dist.destroy_process_group()
        self._folder.cleanup()

    def close_checkpointer(self) -> None:
        """End the attempt that saves."""
        if self._checkpointer is not None:
            self._checkpointer.__exit__(None, None, None)
            self._checkpointer = None

    def _made(self, *, attempt: int) -> Checkpointer:
        assert self._task is not None
        job = JobConfig(
            run=RunIdentity(uid="bench", namespace="default", name="bench"),
            stage="stage",
            attempt=attempt,
            model=catalog.get("tiny-8b-like"),
            layout=ParallelLayout(),
            trainable=(Component.LANGUAGE,),
            data=DataConfig(meta="/nowhere", tokenizer="/nowhere"),
            optimization=OptimizationConfig(steps=STEPS, peak_lr=1, global_batch=1),
            checkpoint=CheckpointConfig(every_steps=1),
            storage=StorageConfig(uri=self._task.uri, endpoint_url=self._task.endpoint),
        )
        return Checkpointer(job, open_store(endpoint_url=self._task.endpoint), Path(self._task.scratch))


def contender(name: str, threads: int) -> Ours:
    """The only one of this module."""
    return Ours()
