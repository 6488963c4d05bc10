"""Reading and verifying manifests with an object store at hand; the decisions are contract/gate.py's. Torch-free."""

import hashlib
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from internvl_trainer.checkpoint.errors import InvalidCheckpointError
from internvl_trainer.contract import gate, keys
from internvl_trainer.contract.base import Component
from internvl_trainer.contract.gate import Expected, Observed, Verdict
from internvl_trainer.contract.manifest import ComponentManifest, Manifest, ManifestRef
from internvl_trainer.storage import ObjectInfo, ObjectNotFoundError, ObjectStore


class Source(NamedTuple):
    """A verified checkpoint that components can be loaded from."""

    ref: ManifestRef
    manifest: Manifest


def expected_by_key(uri: str, run_uid: str | None = None) -> Expected:
    """What a checkpoint manifest's own place says about it."""
    key = keys.parse_manifest_key(uri)
    if key is None:
        return Expected(run_uid=run_uid)
    return Expected(run_uid=run_uid, stage=key.stage, attempt=key.attempt, step=key.step)


def observed_below(manifest_uri: str, listing: Iterable[ObjectInfo]) -> dict[str, Observed]:
    """The objects of a listing that lie in the manifest's folder, by key relative to it."""
    prefix = manifest_uri.rpartition("/")[0] + "/"
    return {
        info.uri.removeprefix(prefix): Observed(info.size, info.etag) for info in listing if info.uri.startswith(prefix)
    }


def verify(store: ObjectStore, uri: str, expected: Expected, *, read_all: bool = False) -> Verdict:
    """Verify the checkpoint of the manifest at `uri` by one listing, or, with `read_all`, by every object's bytes.

    Raises:
        ObjectNotFoundError: there is no manifest.
        StoreError: the store did not answer.
    """
    payload = store.read(uri)
    prefix = uri.rpartition("/")[0] + "/"
    observed = observed_below(uri, store.list(prefix))
    verdict = gate.judge(payload, observed, expected)
    if not read_all or verdict.manifest is None:
        return verdict
    safe = [stored for stored in verdict.manifest.objects if gate.is_safe_key(stored.key) and stored.key in observed]
    with tempfile.TemporaryDirectory() as folder:
        for stored in safe:
            path = Path(folder) / "object"
            observed[stored.key] = observed[stored.key]._replace(
                sha256=store.download(prefix + stored.key, path).sha256
            )
            path.unlink()
    return gate.judge(payload, observed, expected)


def open_checkpoint(store: ObjectStore, uri: str, expected: Expected) -> Source | tuple[gate.Problem, ...]:
    """The checkpoint of the manifest at `uri`, or all that is wrong with it, by one listing.

    Raises:
        ObjectNotFoundError: there is no manifest.
        StoreError: the store did not answer.
    """
    payload = store.read(uri)
    observed = observed_below(uri, store.list(uri.rpartition("/")[0] + "/"))
    verdict = gate.judge(payload, observed, expected)
    if verdict.manifest is None or verdict.problems:
        return verdict.problems
    return Source(ManifestRef(uri=uri, sha256=hashlib.sha256(payload).hexdigest()), verdict.manifest)


def open_source(store: ObjectStore, component: Component, ref: ManifestRef) -> Source:
    """The verified checkpoint behind a reference to a checkpoint manifest or to a component manifest.

    Raises:
        InvalidCheckpointError: it does not exist, or is not what the reference or its manifest says.
        StoreError: the store did not answer.
    """
    try:
        payload = store.read(ref.uri)
        offered = gate.judge_component(payload, component, Expected(sha256=ref.sha256))
        if offered.manifest is not None and offered.problems:
            raise InvalidCheckpointError.of(ref.uri, offered.problems)
        origin = ref if offered.manifest is None else offered.manifest.source
        source = open_checkpoint(store, origin.uri, expected_by_key(origin.uri)._replace(sha256=origin.sha256))
    except ObjectNotFoundError as error:
        raise InvalidCheckpointError(f"{component} cannot start from {ref.uri}: {error}") from error
    if not isinstance(source, Source):
        raise InvalidCheckpointError.of(origin.uri, source)
    if not source.manifest.components.get(component):
        raise InvalidCheckpointError(f"checkpoint {origin.uri} holds no tensor of component {component}")
    return source


def open_any(store: ObjectStore, uri: str) -> Source:
    """The verified checkpoint behind a manifest, of a checkpoint or a component, that nobody holds a reference to.

    Raises:
        InvalidCheckpointError: what lies there is no manifest, or the checkpoint is not what its manifest says.
        ObjectNotFoundError: there is nothing.
        StoreError: the store did not answer.
    """
    offer = gate.parse(ComponentManifest, store.read(uri))
    if isinstance(offer, ComponentManifest):
        uri, expected = offer.source.uri, Expected(sha256=offer.source.sha256)
    else:
        expected = expected_by_key(uri)
    source = open_checkpoint(store, uri, expected)
    if not isinstance(source, Source):
        raise InvalidCheckpointError.of(uri, source)
    return source


def read_component_manifest(store: ObjectStore, uri: str) -> ComponentManifest | None:
    """The component manifest at `uri`; None if there is none.

    Raises:
        InvalidCheckpointError: what lies there is no component manifest.
    """
    try:
        payload = store.read(uri)
    except ObjectNotFoundError:
        return None
    parsed = gate.parse(ComponentManifest, payload)
    if isinstance(parsed, gate.Unparsable):
        raise InvalidCheckpointError.of(uri, [parsed])
    return parsed
