"""What lies below a place in the object store, sorted into stages and checkpoints; documents read, shards not."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from internvl_trainer.contract import attempts, gate, keys
from internvl_trainer.contract.attempts import AttemptRecord, Fence
from internvl_trainer.contract.base import Contract
from internvl_trainer.contract.gate import Candidate, Expected, Observed, Verdict
from internvl_trainer.contract.keys import CheckpointKey
from internvl_trainer.contract.manifest import ComponentManifest, Manifest, ManifestRef
from internvl_trainer.storage import ObjectInfo, ObjectNotFoundError, ObjectStore, UnfinishedUpload

LOOKS = 3
"""How often a document is read that does not arrive as it was written."""

READERS = 8
"""Documents that are read at once."""

_FOLDER = re.compile(r"(?P<stage>.*?[^/]+/[^/]+)/(?P<step>step-\d{8,})/(?P<attempt>a[1-9]\d*)/(?=.)")
_RECORD = re.compile(r"(?P<stage>.+)/attempts/a(?P<attempt>[1-9]\d*)\.json")
_OFFER = re.compile(r".+/published/(?:a\d+/)?[^/]+\.json")


class FoundManifest(NamedTuple):
    """A manifest as it was read. `problems` of the verdict are those of its own bytes; objects are not looked at."""

    ref: ManifestRef
    verdict: Verdict


@dataclass(frozen=True)
class CheckpointFolder:
    """What lies below `<stage>/step-*/a*/`: a checkpoint, or what a save has left that did not come to its end.

    Attributes:
        uri: of the folder, with a slash at its end.
        key: stage, step and attempt, as its place says them.
        objects: all of them, by URI.
        uploads: of objects of it, that nobody has completed.
        manifest: None where there is none, and so no checkpoint.
    """

    uri: str
    key: CheckpointKey
    objects: tuple[ObjectInfo, ...]
    uploads: tuple[UnfinishedUpload, ...]
    manifest: FoundManifest | None

    @property
    def manifest_uri(self) -> str:
        """Where its manifest is, or would be."""
        return self.uri + keys.MANIFEST_NAME

    @property
    def candidate(self) -> Candidate:
        """It, as retention and fences know it."""
        return Candidate(self.key, self.manifest_uri)

    @property
    def is_pinned(self) -> bool:
        """Whether somebody has said that it is to stay."""
        return keys.pin_uri(self.manifest_uri) in self._uris

    @property
    def has_offers(self) -> bool:
        """Whether components were published from it by hand."""
        return any(uri.startswith(f"{self.uri}published/") for uri in self._uris)

    @cached_property
    def is_sound(self) -> bool:
        """Whether it is a checkpoint that a run could go on from, as far as a listing can tell."""
        if self.manifest is None or not self.manifest.verdict.passed:
            return False
        assert self.manifest.verdict.manifest is not None
        observed = {info.uri.removeprefix(self.uri): Observed(info.size, info.etag) for info in self.objects}
        return not gate.judge_objects(self.manifest.verdict.manifest, observed)

    @cached_property
    def _uris(self) -> frozenset[str]:
        return frozenset(info.uri for info in self.objects)


class Record(NamedTuple):
    """The record that an attempt has begun; `parsed` is None where it cannot be read."""

    attempt: int
    info: ObjectInfo
    parsed: AttemptRecord | None


@dataclass(frozen=True)
class Stage:
    """One stage of one run.

    Attributes:
        uri: of its folder, with a slash at its end.
        folders: by step, then by attempt.
        records: of its attempts.
    """

    uri: str
    folders: tuple[CheckpointFolder, ...]
    records: tuple[Record, ...]

    @property
    def run_uri(self) -> str:
        """The folder of its run, with a slash at its end."""
        return keys.folder_of(self.uri.rstrip("/"))

    @cached_property
    def fences(self) -> tuple[Fence, ...]:
        """All that its attempts have written down."""
        known: tuple[Fence, ...] = ()
        for record in self.records:
            for fence in record.parsed.fences if record.parsed else ():
                known = attempts.with_fence(known, fence)
        return known

    @property
    def has_unknown_fences(self) -> bool:
        """Whether the record of an attempt cannot be read, and no other one tells where the attempt began."""
        return not {record.attempt for record in self.records} <= {fence.attempt for fence in self.fences}

    @cached_property
    def admissible(self) -> frozenset[str]:
        """Manifests that no later attempt has left behind, as far as the fences are known."""
        committed = [folder.candidate for folder in self.folders if folder.manifest is not None]
        return frozenset(candidate.uri for candidate in attempts.admissible(committed, self.fences))


@dataclass(frozen=True)
class Inventory:
    """All that was found.

    Attributes:
        stages: by URI.
        manifests: every checkpoint's, by URI; also those that belong to no stage, as imports and copies.
        offers: every component manifest that can be read, by URI.
        pinned: manifests beside which there is a pin.
    """

    stages: tuple[Stage, ...]
    manifests: Mapping[str, FoundManifest]
    offers: Mapping[str, ComponentManifest]
    pinned: frozenset[str]

    def is_handed_on(self, manifest_uri: str) -> bool:
        """Whether a component manifest points at it, or the stage of another checkpoint began with it."""
        return identity_of(manifest_uri) in self._handed_on

    @cached_property
    def _handed_on(self) -> frozenset[str]:
        offered = {offer.source.uri for offer in self.offers.values()}
        found = [each.verdict.manifest for each in self.manifests.values() if each.verdict.manifest is not None]
        began = {ref.uri for manifest in found for ref in manifest.parents.values()}
        return frozenset(map(identity_of, offered | began))


Read = Callable[[str], bytes | None]
"""Gives the bytes of an object; None where it has vanished."""


def take(store: ObjectStore, prefix: str, *, uploads: bool = False) -> Inventory:
    """Find out what lies below a prefix, which ends with a slash: one listing, and a read for each document.

    Args:
        uploads: whether to look for unfinished uploads as well.

    Raises:
        StoreError: the store did not answer.
    """

    def read(uri: str) -> bytes | None:
        for _ in range(LOOKS):
            try:
                payload = store.read(uri)
            except ObjectNotFoundError:
                return None
            if isinstance(gate.parse(kinds[uri], payload), kinds[uri]):
                break
        return payload

    listing = list(store.list(prefix))
    listing += _unlisted_records(store, listing)
    kinds = {info.uri: kind for info in listing if (kind := _kind_of(info.uri)) is not None}
    with ThreadPoolExecutor(READERS, thread_name_prefix="documents") as pool:
        documents = dict(zip(kinds, pool.map(read, kinds), strict=True))
    return sort_out(listing, list(store.unfinished_uploads(prefix)) if uploads else [], documents.get)


def _unlisted_records(store: ObjectStore, listing: Iterable[ObjectInfo]) -> list[ObjectInfo]:
    """Records of attempts that a listing which is behind does not show: without them a late checkpoint would count."""
    listed = {info.uri for info in listing}
    newest: dict[str, int] = defaultdict(int)
    for place in filter(None, map(place_of, listed)):
        stage = _stage_of(place[0])
        newest[stage] = max(newest[stage], place[1].attempt)
    names = {f"{stage}attempts/a{number}.json" for stage, last in newest.items() for number in range(1, last + 2)}
    found = []
    for uri in sorted(names - listed):
        with suppress(ObjectNotFoundError):
            found.append(store.stat(uri))
    return found


def sort_out(listing: Iterable[ObjectInfo], uploads: Iterable[UnfinishedUpload], read: Read) -> Inventory:
    """The inventory of a listing. Does no I/O but by `read`, for documents alone."""
    objects: dict[tuple[str, CheckpointKey], list[ObjectInfo]] = defaultdict(list)
    begun: dict[tuple[str, CheckpointKey], list[UnfinishedUpload]] = defaultdict(list)
    records: dict[str, list[Record]] = defaultdict(list)
    manifests: dict[str, FoundManifest] = {}
    offers: dict[str, ComponentManifest] = {}
    pinned: set[str] = set()
    for info in listing:
        place = place_of(info.uri)
        if place is not None:
            objects[place].append(info)
        kind = _kind_of(info.uri)
        payload = read(info.uri) if kind is not None else None
        if info.uri.endswith(f"/{keys.PIN_NAME}"):
            pinned.add(keys.folder_of(info.uri) + keys.MANIFEST_NAME)
        elif payload is None:
            continue
        elif kind is Manifest:
            manifests[info.uri] = _judged(info.uri, payload)
        elif match := _RECORD.fullmatch(info.uri):
            record = gate.parse(AttemptRecord, payload)
            parsed = record if isinstance(record, AttemptRecord) else None
            records[match["stage"] + "/"].append(Record(int(match["attempt"]), info, parsed))
        else:
            offer = gate.parse(ComponentManifest, payload)
            if isinstance(offer, ComponentManifest):
                offers[info.uri] = offer
    for upload in uploads:
        place = place_of(upload.uri)
        if place is not None:
            begun[place].append(upload)
    folders = [
        CheckpointFolder(
            uri, key, tuple(objects[uri, key]), tuple(begun[uri, key]), manifests.get(uri + keys.MANIFEST_NAME)
        )
        for uri, key in sorted({*objects, *begun}, key=lambda place: (place[1].step, place[1].attempt, place[0]))
    ]
    return Inventory(_stages(folders, records), manifests, offers, frozenset(pinned))


def identity_of(manifest_uri: str) -> str:
    """A checkpoint's run, stage, step and attempt, however the store before them is spelled.

    A folder can be written with and without file://, and a bucket can move: what refers to a checkpoint still does.
    """
    return "/".join(manifest_uri.split("/")[-5:])


def place_of(uri: str) -> tuple[str, CheckpointKey] | None:
    """The checkpoint folder that an object lies in, and what that says; None where it is not of our layout."""
    match = _FOLDER.match(uri)
    if match is None:
        return None
    step, attempt = int(match["step"].removeprefix("step-")), int(match["attempt"].removeprefix("a"))
    if match["step"] != f"step-{step:08d}":
        return None
    return match[0], CheckpointKey(match["stage"].rpartition("/")[2], step, attempt)


def _stages(folders: Iterable[CheckpointFolder], records: Mapping[str, list[Record]]) -> tuple[Stage, ...]:
    by_stage: dict[str, list[CheckpointFolder]] = defaultdict(list)
    for folder in folders:
        by_stage[_stage_of(folder.uri)].append(folder)
    return tuple(
        Stage(uri, tuple(by_stage[uri]), tuple(sorted(records.get(uri, ()), key=lambda record: record.attempt)))
        for uri in sorted({*by_stage, *records})
    )


def _stage_of(folder_uri: str) -> str:
    """The folder of the stage that a checkpoint's folder belongs to; both end with a slash."""
    return folder_uri.rsplit("/", 3)[0] + "/"


def _judged(uri: str, payload: bytes) -> FoundManifest:
    key = keys.parse_manifest_key(uri)
    expected = Expected(stage=key.stage, attempt=key.attempt, step=key.step) if key else Expected()
    ref = ManifestRef.to(uri, payload)
    return FoundManifest(ref, gate.judge_manifest(payload, expected))


def _kind_of(uri: str) -> type[Contract] | None:
    """What kind of document an object is by its name; None: none that is read here."""
    if uri.endswith(f"/{keys.MANIFEST_NAME}"):
        return Manifest
    if _RECORD.fullmatch(uri):
        return AttemptRecord
    return ComponentManifest if _OFFER.fullmatch(uri) else None
