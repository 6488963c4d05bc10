"""A real checkpoint in a folder, as a trainer commits it: objects first, manifest last."""

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import pytest

from internvl_trainer.contract import catalog, keys
from internvl_trainer.contract.base import Component, RunIdentity
from internvl_trainer.contract.data_position import DataPosition
from internvl_trainer.contract.manifest import (
    ComponentManifest,
    LossSummary,
    Manifest,
    ManifestRef,
    ParallelLayout,
    StoredObject,
)

RUN = RunIdentity(uid="uid-1", namespace="team", name="run")
STAGE = "stage1"
STEPS = 20


class Checkpoint(NamedTuple):
    storage_uri: str
    uri: str
    manifest: Manifest

    @property
    def folder(self) -> Path:
        return Path(self.uri.removeprefix("file://")).parent

    @property
    def ref(self) -> ManifestRef:
        return ManifestRef(uri=self.uri, sha256=hashlib.sha256(self.manifest.to_bytes()).hexdigest())


Commit = Callable[..., Checkpoint]


@pytest.fixture
def commit(tmp_path: Path) -> Commit:
    """Commits a checkpoint of the run below `tmp_path`, optionally with a published vision encoder."""

    def commit(
        *,
        run: RunIdentity = RUN,
        step: int = STEPS,
        total_steps: int = STEPS,
        attempt: int = 1,
        shards: int = 2,
        etag: str = "",
        publish: tuple[Component, ...] = (),
        components: tuple[str, ...] = ("vision", "projector", "language", "optimizer", "state"),
    ) -> Checkpoint:
        storage_uri = f"file://{tmp_path}/bucket"
        uri = keys.manifest_uri(storage_uri, run.uid, STAGE, step, attempt)
        folder = Path(uri.removeprefix("file://")).parent
        folder.mkdir(parents=True)
        objects = []
        for name in (f"shard-{index}.distcp" for index in range(shards)):
            payload = f"{name} of {uri}".encode()
            (folder / name).write_bytes(payload)
            digest = hashlib.sha256(payload).hexdigest()
            objects.append(StoredObject(key=name, size=len(payload), sha256=digest, etag=etag))
        manifest = Manifest(
            run=run,
            stage=STAGE,
            attempt=attempt,
            step=step,
            total_steps=total_steps,
            tokens=1000,
            data=DataPosition(packs=40),
            created_at=datetime(2026, 1, 1, tzinfo=UTC),
            config_sha256="0" * 64,
            model=catalog.get("tiny-1b-like"),
            layout=ParallelLayout(),
            components={name: (f"{name}.weight",) for name in components},
            objects=tuple(objects),
            loss=LossSummary(first=5.0, last=1.5, steps=step),
        )
        Path(uri.removeprefix("file://")).write_bytes(manifest.to_bytes())
        checkpoint = Checkpoint(storage_uri, uri, manifest)
        for component in publish:
            publish_component(checkpoint, component)
        return checkpoint

    return commit


def publish_component(checkpoint: Checkpoint, component: Component) -> str:
    """Writes the component manifest of a committed checkpoint, and tells where."""
    manifest = checkpoint.manifest
    uri = keys.component_uri(checkpoint.storage_uri, manifest.run.uid, STAGE, manifest.attempt, component)
    offer = ComponentManifest(
        component=component,
        source=checkpoint.ref,
        run=manifest.run,
        stage=STAGE,
        attempt=manifest.attempt,
        step=manifest.step,
        created_at=manifest.created_at,
        vision=manifest.model.vision,
        tensors=manifest.components[component],
    )
    path = Path(uri.removeprefix("file://"))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(offer.to_bytes())
    return uri
