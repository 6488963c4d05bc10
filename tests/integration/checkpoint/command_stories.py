"""What the processes of runs do before and after `internvl checkpoint` has been at work."""

from datetime import UTC, datetime
from typing import Any

import torch.distributed as dist

from internvl_trainer.checkpoint import pins
from internvl_trainer.contract import catalog
from internvl_trainer.contract.base import Component, RunIdentity
from internvl_trainer.contract.job import CheckpointConfig, OptimizationConfig
from internvl_trainer.contract.manifest import ManifestRef, ParallelLayout
from internvl_trainer.contract.pin import Pin
from internvl_trainer.contract.retention import Retention
from tests.integration.checkpoint.stories import Result, Setting, train_state
from tests.integration.checkpoint.toy import Place, ToyEngine


def starts_from_a_copied_vit(setting: Setting, published: ManifestRef) -> Result:
    """A run of TP2 loads the ViT, which one process has saved, and saves it in its turn."""
    engine = ToyEngine(Place.of(dist.get_rank(), tensor=2), 9)
    fields: dict[str, Any] = {
        "run": RunIdentity(uid="uid-2", namespace="default", name="second"),
        "model": catalog.get("tiny-1b-like"),
        "layout": ParallelLayout(tensor=2),
        "init": {Component.VISION: published},
    }
    with setting.checkpointer(**fields) as checkpointer:
        checkpointer.initialise(engine)
        seen: Result = {"taken": engine.holds(2), "kept": engine.holds(9)}
        seen["ref"] = checkpointer.save(engine, train_state(2))
    return seen


def saves_and_lets_go(setting: Setting) -> Result:
    """Five steps of six are saved; the last one is kept, every third, and step 1, which somebody pins."""
    retention = Retention(keep_last=1, keep_every=3)
    fields: dict[str, Any] = {
        "checkpoint": CheckpointConfig(every_steps=1, retention=retention),
        "optimization": OptimizationConfig(steps=6, peak_lr=1e-4, global_batch=4),
    }
    with setting.checkpointer(**fields) as checkpointer:
        checkpointer.resume(ToyEngine(Place.of(0), 0))
        for step in range(1, 6):
            ref = checkpointer.save(ToyEngine(Place.of(0), step), train_state(step))
            if step == 1:
                pins.pin(setting.store(), ref.uri, Pin(created_at=datetime.now(UTC)))
    return {}
