"""A bucket in memory: what gc looks at, without a store."""

import hashlib
import os
from datetime import UTC, datetime, timedelta
from typing import Any

from internvl_trainer.checkpoint import garbage
from internvl_trainer.checkpoint.components import components_in
from internvl_trainer.checkpoint.garbage import Finding, ForgottenUpload, Rules
from internvl_trainer.checkpoint.inventory import Inventory, sort_out
from internvl_trainer.contract import keys
from internvl_trainer.contract.attempts import AttemptRecord, Fence
from internvl_trainer.contract.base import Component, RunIdentity
from internvl_trainer.contract.manifest import ComponentManifest, Manifest, ManifestRef, StoredObject
from internvl_trainer.contract.pin import Pin
from internvl_trainer.contract.retention import Retention
from internvl_trainer.storage import ObjectInfo, ObjectStore, UnfinishedUpload
from tests.unit.contract.examples import manifest

NOW = datetime(2026, 5, 1, tzinfo=UTC)
STORAGE = "s3://bucket/runs"
RUN, STAGE = "uid-1", "stage1"
SHARDS = {
    ".metadata": b"index",
    "vision__0_0.distcp": b"abc",
    "language__0_0.distcp": b"defgh",
    "optimizer__0_0.distcp": b"0123456789",
}
TENSORS = {
    "vision": ("vision_model.x", "vision_model.y"),
    "language": ("language_model.x",),
    "optimizer": ("optimizer.x",),
    "state": ("common_state",),
}


def _sha256(payload: bytes) -> str:
    return hashlib.sha256(payload).hexdigest()


def hours(count: float) -> timedelta:
    """A time span."""
    return timedelta(hours=count)


class Bucket:
    """Objects by URI, each with the time at which it was written. Ages are in hours."""

    def __init__(self, storage: str = STORAGE, now: datetime = NOW) -> None:
        self.storage, self.now = storage, now
        self.objects: dict[str, tuple[bytes, datetime]] = {}
        self.uploads: list[UnfinishedUpload] = []

    def put(self, uri: str, payload: bytes, age: float = 0) -> str:
        """Write an object."""
        self.objects[uri] = (payload, self.now - hours(age))
        return uri

    def shards(self, step: int, attempt: int = 1, *, age: float = 0, stage: str = STAGE, run: str = RUN) -> str:
        """What a save uploads before its manifest; the folder."""
        folder = keys.checkpoint_prefix(self.storage, run, stage, step, attempt)
        for name, payload in SHARDS.items():
            self.put(folder + name, payload, age)
        return folder

    def checkpoint(
        self, step: int, attempt: int = 1, *, age: float = 0, stage: str = STAGE, run: str = RUN, **changes: Any
    ) -> str:
        """A committed checkpoint of a stage of 100 steps; the URI of its manifest."""
        folder = self.shards(step, attempt, age=age, stage=stage, run=run)
        stored = [
            StoredObject(key=name, size=len(payload), sha256=_sha256(payload), components=components_in(name))
            for name, payload in SHARDS.items()
        ]
        fields: dict[str, Any] = {
            "run": RunIdentity(uid=run, namespace="default", name=run),
            "stage": stage,
            "attempt": attempt,
            "step": step,
            "total_steps": 100,
            "components": TENSORS,
            "objects": tuple(stored),
        }
        return self.put(folder + keys.MANIFEST_NAME, manifest(**fields | changes).to_bytes(), age)

    def attempt(self, number: int, *fences: tuple[int, int], age: float = 0, stage: str = STAGE, run: str = RUN) -> str:
        """The record of an attempt with all fences, each as (attempt, step)."""
        record = AttemptRecord(
            run=RunIdentity(uid=run, namespace="default", name=run),
            stage=stage,
            attempt=number,
            created_at=self.now,
            fences=tuple(Fence(attempt=attempt, step=step) for attempt, step in fences),
        )
        return self.put(keys.attempt_uri(self.storage, run, stage, number), record.to_bytes(), age)

    def pin(self, manifest_uri: str) -> str:
        """Pin a checkpoint."""
        return self.put(keys.pin_uri(manifest_uri), Pin(created_at=self.now).to_bytes())

    def offer(self, manifest_uri: str, *, at: str | None = None, source: str | None = None) -> str:
        """Publish a checkpoint's vision encoder, by hand unless `at` says where; `source`: otherwise spelled."""
        payload = self.objects[manifest_uri][0]
        found = Manifest.from_bytes(payload)
        offer = ComponentManifest(
            component=Component.VISION,
            source=ManifestRef(uri=source or manifest_uri, sha256=_sha256(payload)),
            run=found.run,
            stage=found.stage,
            attempt=found.attempt,
            step=found.step,
            created_at=self.now,
            vision=found.model.vision,
            tensors=TENSORS["vision"],
        )
        return self.put(at or keys.published_by_hand_uri(manifest_uri, Component.VISION), offer.to_bytes())

    def upload(self, folder: str, *, age: float = 0) -> UnfinishedUpload:
        """Begin the upload of one more shard."""
        self.uploads.append(
            UnfinishedUpload(f"{folder}projector__0_0.distcp", f"id-{len(self.uploads)}", self.now - hours(age))
        )
        return self.uploads[-1]

    def pour(self, store: ObjectStore) -> None:
        """Put everything into a real store; in a folder it is as old as it is here."""
        for uri, (payload, modified) in self.objects.items():
            store.put(uri, payload)
            if not uri.startswith("s3://"):
                os.utime(uri.removeprefix("file://"), (modified.timestamp(),) * 2)

    def inventory(self) -> Inventory:
        """What is there."""
        listing = [
            ObjectInfo(uri, len(payload), "", modified) for uri, (payload, modified) in sorted(self.objects.items())
        ]
        return sort_out(listing, self.uploads, lambda uri: self.objects[uri][0])

    def plan(
        self, *, older_than: float = 24, keep_last: int | None = None, keep_every: int | None = None
    ) -> list[Finding]:
        """What gc finds."""
        retention = Retention(keep_last=keep_last, keep_every=keep_every)
        return garbage.plan(self.inventory(), Rules(retention, hours(older_than), self.now))

    def remove(self, findings: list[Finding], *, most: int | None = None) -> None:
        """What `--delete` does, object by object; `most`: until it is killed after so many."""
        doomed: list[str | UnfinishedUpload] = []
        for finding in findings:
            doomed += (
                [finding.upload] if isinstance(finding, ForgottenUpload) else [each.uri for each in finding.objects]
            )
        for each in doomed[:most]:
            if isinstance(each, UnfinishedUpload):
                self.uploads.remove(each)
            else:
                del self.objects[each]
