"""The tiny language models, trained on caption text alone before any stage, so that stages start from a pretrained LLM.

It is the same trainer, run on this machine with one process; its checkpoint is found again by the digest of its config.
"""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

from hack.demo.errors import DemoError
from hack.demo.recipe import Run
from hack.demo.target import Storage
from internvl_trainer.contract import catalog, keys
from internvl_trainer.contract.base import RunIdentity
from internvl_trainer.contract.job import (
    CheckpointConfig,
    DataConfig,
    JobConfig,
    OptimizationConfig,
    RecomputeConfig,
    StorageConfig,
)
from internvl_trainer.contract.manifest import ParallelLayout
from internvl_trainer.storage import ObjectStore

TIMEOUT_SECONDS = 900


def job_config(run: Run, *, storage: Storage, data_uri: str) -> JobConfig:
    """The config of a run's language pretraining. Its run identity is derived from all that determines the result."""
    stage = run.pretraining
    draft = JobConfig(
        run=RunIdentity(uid="pretraining", namespace="demo", name=f"{run.model}-language"),
        stage=stage.name,
        attempt=1,
        model=catalog.get(run.model),
        layout=ParallelLayout(),
        trainable=stage.trainable,
        data=DataConfig(
            meta=f"{data_uri}/{stage.data}.json",
            tokenizer=f"{data_uri}/tokenizer",
            max_tiles=stage.packing.max_tiles,
            pack_tokens=stage.packing.tokens,
            pack_tiles=stage.packing.tiles,
        ),
        optimization=OptimizationConfig(
            steps=stage.steps,
            peak_lr=stage.peak_lr,
            warmup_steps=stage.warmup_steps,
            weight_decay=stage.weight_decay,
            global_batch=stage.global_batch,
            loss_reweighting=stage.reweighting,
            precision="fp32",
        ),
        recompute=RecomputeConfig(vision="none", language="none"),
        checkpoint=CheckpointConfig(every_steps=stage.steps),
        storage=StorageConfig(
            uri=f"{storage.uri}/pretrained", endpoint_url=storage.endpoint_url, region=storage.region
        ),
    )
    digest = hashlib.sha256(draft.to_bytes()).hexdigest()[:16]
    return draft.model_copy(update={"run": draft.run.model_copy(update={"uid": f"pretraining-{digest}"})})


def pretrain(config: JobConfig, *, store: ObjectStore, storage: Storage, folder: Path) -> str:
    """The URI of the checkpoint's manifest, after training where it is not there yet.

    Raises:
        DemoError: the trainer failed; names its log.
    """
    uri = keys.manifest_uri(config.storage.uri, config.run.uid, config.stage, config.optimization.steps, config.attempt)
    if any(found.uri == uri for found in store.list(uri)):
        return uri
    folder.mkdir(parents=True, exist_ok=True)
    path, log = folder / "job.json", folder / "log"
    path.write_bytes(config.to_bytes())
    command = [sys.executable, "-m", "internvl_trainer.launch", "--config", str(path), "--processes", "1"]
    with log.open("w") as output:
        try:
            done = subprocess.run(
                command, stdout=output, stderr=subprocess.STDOUT, timeout=TIMEOUT_SECONDS, check=False,
                env={**os.environ, **storage.environment, "OMP_NUM_THREADS": "1", "INTERNVL_SCRATCH": str(folder)},
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise DemoError(f"language pretraining took more than {TIMEOUT_SECONDS} s; its log is {log}") from None
    if done.returncode:
        raise DemoError(f"language pretraining ended with exit code {done.returncode}; its log is {log}")
    return uri
