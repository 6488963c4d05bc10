"""A manifest of either kind, and what is behind it."""

from typing import NamedTuple

from internvl_trainer.checkpoint import verify
from internvl_trainer.checkpoint.cli import names_checkpoint
from internvl_trainer.checkpoint.inventory import FoundManifest
from internvl_trainer.contract import gate
from internvl_trainer.contract.gate import Expected, Problem
from internvl_trainer.contract.manifest import ComponentManifest, ManifestRef
from internvl_trainer.storage import ObjectStore


class FoundOffer(NamedTuple):
    """A component manifest. `problems` are those of its own; the checkpoint that it points at has its verdict."""

    ref: ManifestRef
    offer: ComponentManifest
    problems: tuple[Problem, ...]


class Looked(NamedTuple):
    """A checkpoint, verified by one listing, and the component manifest by which it was named, if it was."""

    checkpoint: FoundManifest
    offered: FoundOffer | None

    @property
    def ref(self) -> ManifestRef:
        """Of the manifest that was named."""
        return self.offered.ref if self.offered else self.checkpoint.ref

    @property
    def problems(self) -> tuple[Problem, ...]:
        """All that is wrong."""
        return (self.offered.problems if self.offered else ()) + self.checkpoint.verdict.problems


def look(store: ObjectStore, uri: str) -> Looked:
    """Find out what lies at a manifest's place, and whether its objects are there.

    Raises:
        InvalidCheckpointError: it is no manifest, and its name does not say that it should be a checkpoint's.
        ObjectNotFoundError: there is nothing, or a component manifest points at nothing.
        StoreError: the store did not answer.
    """
    offer = None if names_checkpoint(uri) else verify.read_component_manifest(store, uri)
    if offer is None:
        return Looked(_checkpoint(store, uri, verify.expected_by_key(uri)), None)
    source = offer.source
    checkpoint = _checkpoint(store, source.uri, verify.expected_by_key(source.uri)._replace(sha256=source.sha256))
    return Looked(checkpoint, _offered(store, uri, offer, checkpoint))


def _checkpoint(store: ObjectStore, uri: str, expected: Expected) -> FoundManifest:
    verdict, sha256 = verify.judge(store, uri, expected)
    return FoundManifest(ManifestRef(uri=uri, sha256=sha256), verdict)


def _offered(store: ObjectStore, uri: str, offer: ComponentManifest, checkpoint: FoundManifest) -> FoundOffer:
    """Compare a component manifest with the checkpoint that it points at."""
    payload, source = store.read(uri), checkpoint.verdict.manifest
    expected = Expected()
    if source is not None:
        expected = Expected(run_uid=source.run.uid, stage=source.stage, attempt=source.attempt, step=source.step)
    problems = gate.judge_component(payload, offer.component, expected).problems
    ref = ManifestRef.to(uri, payload)
    return FoundOffer(ref, offer, problems)
