"""One plain manifest and one plain job, for tests that need just any."""

from datetime import UTC, datetime
from typing import Any

from internvl_trainer.contract import catalog
from internvl_trainer.contract.base import Component, RunIdentity
from internvl_trainer.contract.data_position import DataPosition
from internvl_trainer.contract.job import CheckpointConfig, DataConfig, JobConfig, OptimizationConfig, StorageConfig
from internvl_trainer.contract.manifest import LossSummary, Manifest, ParallelLayout, StoredObject


def manifest(**changes: Any) -> Manifest:
    """The last checkpoint of a two-step stage, of one object; `changes` replace fields."""
    fields: dict[str, Any] = {
        "run": RunIdentity(uid="uid-1", namespace="default", name="first"),
        "stage": "stage1",
        "attempt": 1,
        "step": 2,
        "total_steps": 2,
        "tokens": 200,
        "data": DataPosition(packs=8),
        "created_at": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        "config_sha256": "c" * 64,
        "model": catalog.get("tiny-1b-like"),
        "layout": ParallelLayout(),
        "trainable": (Component.VISION,),
        "components": {"vision": ("vision_model.x",)},
        "objects": (StoredObject(key="__0_0.distcp", size=3, sha256="d" * 64),),
        "loss": LossSummary(first=2.0, last=1.0, steps=2),
    }
    return Manifest(**fields | changes)


def job(**changes: Any) -> JobConfig:
    """Stage 2 of InternVL2_5-8B on one process, full packs, one per step; `changes` replace fields."""
    fields: dict[str, Any] = {
        "run": RunIdentity(uid="uid-1", namespace="default", name="first"),
        "stage": "stage2",
        "attempt": 1,
        "model": catalog.get("InternVL2_5-8B"),
        "layout": ParallelLayout(),
        "trainable": tuple(Component),
        "data": DataConfig(meta="s3://data/meta.json", tokenizer="s3://data/tokenizer"),
        "optimization": OptimizationConfig(steps=10, peak_lr=1e-4, global_batch=1),
        "checkpoint": CheckpointConfig(every_steps=10),
        "storage": StorageConfig(uri="s3://bucket/runs"),
    }
    return JobConfig(**fields | changes)
