"""The gate's hands: reads what `contract.gate` judges, and puts its verdict into the words of `domain.state`.

Every question ends in an answer, never in an exception: a store that is down is a fact about the run too.
"""

import asyncio
import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from internvl_operator.adapters.object_store import (
    ObjectInfo,
    ObjectNotFoundError,
    ObjectStores,
    ObjectTooLargeError,
    StoreAddress,
    StoreError,
)
from internvl_operator.api.reasons import Reason
from internvl_operator.domain.state import (
    GateQuery,
    GateResult,
    Invalid,
    NotThere,
    SourceInvalid,
    SourceReady,
    SourceResult,
    SourceWaiting,
    Unavailable,
    Verified,
)
from internvl_trainer.contract import gate, keys
from internvl_trainer.contract.base import Component
from internvl_trainer.contract.gate import Candidate, Observed
from internvl_trainer.contract.manifest import ComponentManifest, Manifest, ManifestRef, StoredObject

MANIFEST_LIMIT_BYTES = 64 * 1024 * 1024
"""More than any manifest has: a foreign object at a manifest's key must not fill our memory."""

LOOKS = 3
"""How often an object is read that does not arrive as it was written: the network may have damaged it."""

COMPONENT_FORMAT = "internvl-component/v1"
_PROBLEMS_SHOWN = 5
_OF_LISTINGS = (gate.MissingObject, gate.SizeMismatch, gate.ETagMismatch)
"""What may be wrong with a listing, and not with the object."""


class _Read(NamedTuple):
    ref: ManifestRef
    payload: bytes


class _Faulty(Exception):  # noqa: N818  ends a check early; never leaves this module
    def __init__(self, *problems: object) -> None:
        super().__init__()
        shown = [str(problem) for problem in problems[:_PROBLEMS_SHOWN]]
        hidden = len(problems) - len(shown)
        self.problems = (*shown, *([f"and {hidden} more"] if hidden else []))


class Gate:
    """Verifies checkpoints and component manifests in the stores of all runs."""

    def __init__(self, stores: ObjectStores, *, full_digest_bytes: int) -> None:
        """Checkpoints of at most `full_digest_bytes` are read whole and hashed; larger ones by their listing alone."""
        self._stores = stores
        self._full_digest_bytes = full_digest_bytes

    async def final_checkpoint(self, address: StoreAddress, query: GateQuery) -> GateResult:
        """Whether a stage's last checkpoint, and the components that it publishes, are there and sound."""
        try:
            return await self._final_checkpoint(address, query)
        except _Faulty as fault:
            return Invalid(fault.problems)
        except ObjectNotFoundError as error:
            return NotThere(error.uri)
        except StoreError as error:
            return Unavailable(str(error))

    async def source(
        self,
        address: StoreAddress,
        component: Component,
        uri: str,
        *,
        waiting: Reason,
        invalid: Reason,
        sha256: str | None = None,
    ) -> SourceResult:
        """Whether a component can start from the checkpoint or component manifest at `uri`.

        Args:
            waiting: reason of the answer where there is no such object yet.
            invalid: reason of the answer where it, or what it points at, is not what it should be.
            sha256: digest that the manifest must have, where somebody has recorded it.
        """
        try:
            return await self._source(address, component, uri, sha256)
        except _Faulty as fault:
            return SourceInvalid(invalid, f"{uri}: {'; '.join(fault.problems)}")
        except ObjectNotFoundError as error:
            return SourceWaiting(waiting, str(error))
        except StoreError as error:
            return Unavailable(str(error))

    async def _final_checkpoint(self, address: StoreAddress, query: GateQuery) -> GateResult:
        listing = await self._stores.list(address, query.prefix)
        own = _own(query, (query.prefix + key for key in listing))
        if isinstance(own, NotThere):
            return own
        key, uri = own
        expected = gate.Expected(
            run_uid=query.run_uid, stage=query.stage, attempt=key.attempt, step=key.step, final=not query.may_end_early
        )
        folder = _folder(uri).removeprefix(query.prefix)
        objects = {name.removeprefix(folder): info for name, info in listing.items() if name.startswith(folder)}
        read = await self._read(address, uri)
        manifest = await self._judge_checkpoint(address, read, objects, expected)
        if not manifest.is_final:
            newest = f"its newest is of step {manifest.step}, before the stage's limit on tokens"
            return NotThere(f"{_awaited(query)} ({newest})")
        storage_uri = query.prefix.removesuffix(keys.stage_prefix("", query.run_uid, query.stage))
        published = {
            component: await self._published(address, storage_uri, manifest, read.ref, component)
            for component in query.publish
        }
        return Verified(read.ref, manifest.step, manifest.loss, published)

    async def _published(
        self, address: StoreAddress, storage_uri: str, manifest: Manifest, ref: ManifestRef, component: Component
    ) -> ManifestRef:
        uri = keys.component_uri(storage_uri, manifest.run.uid, manifest.stage, manifest.attempt, component)
        read = await self._read(address, uri)
        expected = gate.Expected(run_uid=manifest.run.uid, stage=manifest.stage, attempt=manifest.attempt)
        verdict = gate.judge_component(read.payload, component, expected)
        if verdict.manifest is None or not verdict.passed:
            raise _Faulty(*(f"{uri}: {problem}" for problem in verdict.problems))
        if verdict.manifest.source != ref:
            raise _Faulty(
                f"{uri} points at {verdict.manifest.source.uri}, not at the stage's final checkpoint {ref.uri}"
            )
        return read.ref

    async def _source(self, address: StoreAddress, component: Component, uri: str, sha256: str | None) -> SourceResult:
        read = await self._read(address, uri, sha256)
        if _format(read.payload) != COMPONENT_FORMAT:
            manifest = await self._whole_checkpoint(address, read, sha256)
            if not manifest.components.get(component):
                raise _Faulty(f"the checkpoint holds no {component}, only {', '.join(manifest.components)}")
            return _ready(read.ref, manifest.run.namespace, manifest.run.name, manifest.stage)
        verdict = gate.judge_component(read.payload, component, gate.Expected(sha256=sha256))
        if verdict.manifest is None or not verdict.passed:
            raise _Faulty(*verdict.problems)
        source = verdict.manifest.source
        await self._whole_checkpoint(address, await self._read(address, source.uri, source.sha256), source.sha256)
        return _ready(read.ref, verdict.manifest.run.namespace, verdict.manifest.run.name, verdict.manifest.stage)

    async def _whole_checkpoint(self, address: StoreAddress, read: _Read, sha256: str | None) -> Manifest:
        objects = await self._stores.list(address, _folder(read.ref.uri))
        return await self._judge_checkpoint(address, read, objects, gate.Expected(sha256=sha256))

    async def _judge_checkpoint(
        self, address: StoreAddress, read: _Read, listing: Mapping[str, ObjectInfo], expected: gate.Expected
    ) -> Manifest:
        verdict = gate.judge_manifest(read.payload, expected)
        if verdict.manifest is None or not verdict.passed:
            raise _Faulty(*verdict.problems)
        manifest, folder = verdict.manifest, _folder(read.ref.uri)
        seen = await self._observed(address, folder, manifest, listing)
        if problems := gate.judge_objects(manifest, seen):
            raise _Faulty(*problems)
        if manifest.total_bytes <= self._full_digest_bytes:
            digests = await asyncio.gather(*(self._digest(address, folder, stored) for stored in manifest.objects))
            for stored, digest in zip(manifest.objects, digests, strict=True):
                seen[stored.key] = seen[stored.key]._replace(sha256=digest)
            if problems := gate.judge_objects(manifest, seen):
                raise _Faulty(*problems)
        return manifest

    async def _observed(
        self, address: StoreAddress, folder: str, manifest: Manifest, listing: Mapping[str, ObjectInfo]
    ) -> dict[str, Observed]:
        """The listing, with a look at each object that it does not show as it should be: listings can be behind."""
        seen = {key: Observed(info.size, info.etag) for key, info in listing.items()}
        doubtful = [problem.key for problem in gate.judge_objects(manifest, seen) if isinstance(problem, _OF_LISTINGS)]
        looks = await asyncio.gather(*(self._look(address, folder + key) for key in doubtful))
        for key, look in zip(doubtful, looks, strict=True):
            seen.pop(key, None)
            if look is not None:
                seen[key] = look
        return seen

    async def _look(self, address: StoreAddress, uri: str) -> Observed | None:
        try:
            return Observed(*await self._stores.stat(address, uri))
        except ObjectNotFoundError:
            return None

    async def _digest(self, address: StoreAddress, folder: str, stored: StoredObject) -> str:
        for _ in range(LOOKS):
            digest = await self._stores.sha256(address, folder + stored.key, block_bytes=stored.block_bytes)
            if digest == stored.sha256:
                break
        return digest

    async def _read(self, address: StoreAddress, uri: str, sha256: str | None = None) -> _Read:
        """A manifest of either kind; where it stays damaged, its bytes as they arrived last.

        Args:
            sha256: its digest, where somebody has recorded it; else its own seal tells whether it arrived whole.
        """
        for _ in range(LOOKS):
            try:
                payload = await self._stores.read(address, uri, limit=MANIFEST_LIMIT_BYTES)
            except ObjectTooLargeError as error:
                raise _Faulty(error) from error
            digest = hashlib.sha256(payload).hexdigest()
            if digest == sha256 or (sha256 is None and _parses(payload)):
                break
        return _Read(ManifestRef(uri=uri, sha256=digest), payload)


def _own(query: GateQuery, uris: Iterable[str]) -> Candidate | NotThere:
    """The manifest that ends the stage if it is what it should be: the attempt's own, and no other's.

    An earlier attempt's may have come at any time, from a pod that was given up for lost.
    """
    found = gate.candidates(uris, stage=query.stage, max_attempt=query.attempt)
    last = [each for each in found if each.key.step == query.total_steps]
    candidates = found if query.may_end_early else last
    own = next((each for each in candidates if each.key.attempt == query.attempt), None)
    if own is not None:
        return own
    others = ", ".join(str(each.key.attempt) for each in last)
    return NotThere(
        _awaited(query) + (f" (that of attempt {others} was replaced and does not count)" if others else "")
    )


def _awaited(query: GateQuery) -> str:
    step = "" if query.may_end_early else f" of step {query.total_steps}"
    return f"the final manifest{step} by attempt {query.attempt} below {query.prefix}"


def _folder(uri: str) -> str:
    return uri[: uri.rindex("/") + 1]


def _parses(payload: bytes) -> bool:
    kind = ComponentManifest if _format(payload) == COMPONENT_FORMAT else Manifest
    return not isinstance(gate.parse(kind, payload), gate.Unparsable)


def _format(payload: bytes) -> str:
    try:
        document = json.loads(payload)
    except ValueError:
        return ""
    return str(document.get("format", "")) if isinstance(document, dict) else ""


def _ready(ref: ManifestRef, namespace: str, name: str, stage: str) -> SourceReady:
    return SourceReady(ref, run=f"{namespace}/{name}", stage=stage)
