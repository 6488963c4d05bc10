"""What the finished runs left behind, read from their status and their manifests."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hack.demo.errors import DemoError
from internvl_operator.api.status import StageStatus
from internvl_operator.console.tables import run_name, status_of
from internvl_trainer.checkpoint.state import StepMetrics, from_lines
from internvl_trainer.contract.keys import METRICS_NAME
from internvl_trainer.contract.manifest import LineageEntry, Manifest, ManifestRef
from internvl_trainer.storage import ObjectStore


@dataclass(frozen=True)
class StageOutcome:
    """One finished stage: what its status says and what its final manifest holds."""

    run: str
    status: StageStatus
    ref: ManifestRef
    manifest: Manifest
    metrics: tuple[StepMetrics, ...]

    @property
    def lineage(self) -> tuple[LineageEntry, ...]:
        """Which stages trained the ViT that this stage started from, oldest first."""
        return self.manifest.vision_lineage


def read_outcomes(trainings: Sequence[Mapping[str, Any]], store: ObjectStore) -> list[StageOutcome]:
    """All finished stages of all runs, in order.

    Raises:
        DemoError: a manifest's bytes are not those whose digest the status holds.
    """
    outcomes = []
    for training in trainings:
        for stage in status_of(training).stages:
            if stage.last_checkpoint is None:
                continue
            ref = ManifestRef(uri=stage.last_checkpoint.uri, sha256=stage.last_checkpoint.manifest_sha256)
            outcomes.append(_outcome(run_name(training), stage, ref, store))
    return outcomes


def _outcome(run: str, stage: StageStatus, ref: ManifestRef, store: ObjectStore) -> StageOutcome:
    payload = store.read(ref.uri)
    if hashlib.sha256(payload).hexdigest() != ref.sha256:
        raise DemoError(f"{ref.uri} is not the manifest that {run}'s status names: someone wrote over it")
    folder = ref.uri.rpartition("/")[0]
    metrics = from_lines(store.read(f"{folder}/{METRICS_NAME}"))
    return StageOutcome(run, stage, ref, Manifest.from_bytes(payload), metrics)
