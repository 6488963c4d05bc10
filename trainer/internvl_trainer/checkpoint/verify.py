"""Reading and verifying manifests with an object store at hand; the decisions are contract/gate.py's. Torch-free."""

import hashlib
from contextlib import suppress
from typing import NamedTuple

from internvl_trainer.checkpoint.errors import InvalidCheckpointError
from internvl_trainer.checkpoint.transfer import Told, Transfers, Wanted
from internvl_trainer.contract import gate, keys
from internvl_trainer.contract.base import Component
from internvl_trainer.contract.gate import Expected, Observed, Verdict
from internvl_trainer.contract.manifest import ComponentManifest, Manifest, ManifestRef
from internvl_trainer.storage import ObjectInfo, ObjectNotFoundError, ObjectStore

LOOKS = 3
"""How often a manifest is read that does not arrive as it was written."""


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


def observed_objects(store: ObjectStore, manifest_uri: str, manifest: Manifest) -> dict[str, Observed]:
    """The objects of a manifest as the store shows them, by key relative to the manifest's folder.

    One listing, and a look at each object that it does not show as it should be: listings can be behind.
    """
    prefix = keys.folder_of(manifest_uri)
    listed = {info.uri.removeprefix(prefix): _observed(info) for info in store.list(prefix)}
    for stored in manifest.objects:
        seen = listed.get(stored.key)
        as_written = seen is not None and seen.size == stored.size and (not seen.etag or seen.etag == stored.etag)
        if not as_written and gate.is_safe_key(stored.key):
            with suppress(ObjectNotFoundError):
                listed[stored.key] = _observed(store.stat(prefix + stored.key))
    return listed


def judge(store: ObjectStore, uri: str, expected: Expected) -> tuple[Verdict, str]:
    """What is wrong with the checkpoint of the manifest at `uri`, by one listing; and the manifest's SHA-256.

    A manifest that arrives damaged is read again: the network may have done it.

    Raises:
        ObjectNotFoundError: there is no manifest.
        StoreError: the store did not answer.
    """
    for look in range(LOOKS):
        payload = store.read(uri)
        verdict = gate.judge_manifest(payload, expected)
        if verdict.passed or look == LOOKS - 1:
            break
    manifest = verdict.manifest
    if manifest is not None:
        problems = gate.judge_objects(manifest, observed_objects(store, uri, manifest))
        verdict = Verdict(manifest, verdict.problems + problems)
    return verdict, hashlib.sha256(payload).hexdigest()


def read_all(store: ObjectStore, uri: str, verdict: Verdict, told: Told = lambda size: None) -> Verdict:
    """A verdict after every byte of every object has been read and compared.

    Args:
        verdict: one that has a manifest.
        told: how many bytes more have been read.

    Raises:
        StoreError: the store did not answer.
    """
    assert verdict.manifest is not None
    with Transfers(store) as transfers:
        wanted = [Wanted.whole(stored) for stored in verdict.manifest.objects]
        return verdict._replace(problems=verdict.problems + tuple(transfers.check(uri, wanted, told)))


def open_checkpoint(store: ObjectStore, uri: str, expected: Expected) -> Source | tuple[gate.Problem, ...]:
    """The checkpoint of the manifest at `uri`, or all that is wrong with it, by one listing.

    Raises:
        ObjectNotFoundError: there is no manifest.
        StoreError: the store did not answer.
    """
    verdict, sha256 = judge(store, uri, expected)
    if verdict.manifest is None or verdict.problems:
        return verdict.problems
    return Source(ManifestRef(uri=uri, sha256=sha256), verdict.manifest)


def open_source(store: ObjectStore, component: Component, ref: ManifestRef) -> Source:
    """The verified checkpoint behind a reference to a checkpoint manifest or to a component manifest.

    Raises:
        InvalidCheckpointError: it does not exist, or is not what the reference or its manifest says.
        StoreError: the store did not answer.
    """
    try:
        payload = _read(store, ref)
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
    offer = read_component_manifest(store, uri)
    if offer is not None:
        uri, expected = offer.source.uri, Expected(sha256=offer.source.sha256)
    else:
        expected = expected_by_key(uri)
    source = open_checkpoint(store, uri, expected)
    if not isinstance(source, Source):
        raise InvalidCheckpointError.of(uri, source)
    return source


def read_component_manifest(store: ObjectStore, uri: str) -> ComponentManifest | None:
    """The component manifest at `uri`; None if another kind of manifest lies there.

    Raises:
        InvalidCheckpointError: what lies there is no manifest.
        ObjectNotFoundError: there is nothing.
        StoreError: the store did not answer.
    """
    for _ in range(LOOKS):
        payload = store.read(uri)
        offer = gate.parse(ComponentManifest, payload)
        if isinstance(offer, ComponentManifest):
            return offer
        checkpoint = gate.parse(Manifest, payload)
        if isinstance(checkpoint, Manifest):
            return None
    expected = checkpoint if uri.endswith(f"/{keys.MANIFEST_NAME}") else offer
    assert isinstance(expected, gate.Unparsable)
    raise InvalidCheckpointError.of(uri, [expected])


def _read(store: ObjectStore, ref: ManifestRef) -> bytes:
    """The bytes at a reference, read again where they are not the ones it was taken of."""
    for _ in range(LOOKS):
        payload = store.read(ref.uri)
        if hashlib.sha256(payload).hexdigest() == ref.sha256:
            break
    return payload


def _observed(info: ObjectInfo) -> Observed:
    return Observed(info.size, info.etag)
