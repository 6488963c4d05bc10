"""Offering one component of a committed checkpoint to other runs: a manifest of its own, and no copy. Torch-free."""

from datetime import UTC, datetime
from typing import NamedTuple

from internvl_trainer.checkpoint.commit import write_once
from internvl_trainer.checkpoint.errors import CheckpointConflictError, InvalidCheckpointError
from internvl_trainer.checkpoint.origin import lineage_with
from internvl_trainer.checkpoint.verify import Source
from internvl_trainer.contract import gate
from internvl_trainer.contract.base import Component
from internvl_trainer.contract.manifest import ComponentManifest, ManifestRef
from internvl_trainer.storage import ObjectNotFoundError, ObjectStore


class Offered(NamedTuple):
    """A component manifest that lies in the store."""

    ref: ManifestRef
    offer: ComponentManifest
    is_new: bool
    """Whether it was written now."""


def offer_of(source: Source, component: Component) -> ComponentManifest:
    """What a checkpoint's component manifest says.

    Raises:
        InvalidCheckpointError: the checkpoint does not hold the component.
    """
    ref, manifest = source
    tensors = manifest.components.get(component)
    if not tensors:
        held = ", ".join(name for name in manifest.components if name in {*Component}) or "none"
        raise InvalidCheckpointError(f"{ref.uri} holds no tensor of component {component}; it holds {held}")
    return ComponentManifest(
        component=component,
        source=ref,
        run=manifest.run,
        stage=manifest.stage,
        attempt=manifest.attempt,
        step=manifest.step,
        created_at=datetime.now(UTC),
        vision=manifest.model.vision,
        tensors=tensors,
        lineage=lineage_with(ref, manifest) if component is Component.VISION else (),
    )


def put_offer(store: ObjectStore, uri: str, offer: ComponentManifest) -> Offered:
    """Write a component manifest to a key where there is none; finding the same offer there is no error.

    Raises:
        CheckpointConflictError: something else lies there.
        StoreError: the store did not answer.
    """
    present = _read(store, uri)
    if present is None:
        payload = offer.to_bytes()
        present = write_once(store, uri, payload)
        if present == payload:
            return Offered(ManifestRef.to(uri, payload), offer, is_new=True)
    found = gate.parse(ComponentManifest, present)
    if not isinstance(found, ComponentManifest):
        raise CheckpointConflictError(f"{uri} is taken by something that is no component manifest; name another place")
    if found.model_copy(update={"created_at": offer.created_at}) != offer:
        raise CheckpointConflictError(
            f"{uri} offers {found.component} of {found.source.uri} (sha256 {found.source.sha256[:16]}), not "
            f"{offer.component} of {offer.source.uri} (sha256 {offer.source.sha256[:16]}); name another place"
        )
    return Offered(ManifestRef.to(uri, present), found, is_new=False)


def _read(store: ObjectStore, uri: str) -> bytes | None:
    try:
        return store.read(uri)
    except ObjectNotFoundError:
        return None
