"""The gate: whether what lies in the object store is the checkpoint that a manifest promises.

Pure functions over bytes and listings, shared by the trainer (resume, initialise) and by the operator (a stage is done
when its final manifest verifies). The caller does the I/O: it reads the manifest, lists the manifest's folder once and
hands both over. Nothing here raises for what it finds; every fault comes back as a typed `Problem` with the name, the
value and the expectation in it.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import ClassVar, NamedTuple

from pydantic import ValidationError

from internvl_trainer.contract import keys
from internvl_trainer.contract.base import Component, Contract
from internvl_trainer.contract.manifest import ComponentManifest, Manifest
from internvl_trainer.contract.seal import BrokenSealError


class Expected(NamedTuple):
    """What the reader of a manifest already knows about it; None leaves a field unchecked."""

    run_uid: str | None = None
    stage: str | None = None
    attempt: int | None = None
    step: int | None = None
    final: bool = False
    """Whether only the stage's last checkpoint will do."""
    sha256: str | None = None
    """Digest of the manifest's own bytes, where the reader holds a `ManifestRef`."""


class Observed(NamedTuple):
    """One object as the store shows it: size and ETag from a listing, sha256 only where somebody read the bytes."""

    size: int
    etag: str = ""
    sha256: str | None = None


@dataclass(frozen=True)
class Problem:
    """One way in which a checkpoint is not what it should be. `reason` suits a Kubernetes condition."""

    reason: ClassVar[str] = "Problem"

    def __str__(self) -> str:
        return self.reason


@dataclass(frozen=True)
class Unparsable(Problem):
    """The bytes are no document of this format and version. `detail` names the fields at fault."""

    reason: ClassVar[str] = "Unparsable"
    detail: str

    def __str__(self) -> str:
        return f"the manifest does not parse: {self.detail}"


@dataclass(frozen=True)
class ManifestDigestMismatch(Problem):
    """The manifest's bytes are not those that the reference was taken of."""

    reason: ClassVar[str] = "ManifestDigestMismatch"
    expected: str
    found: str

    def __str__(self) -> str:
        return f"the manifest's sha256 is {self.found}, the reference says {self.expected}"


@dataclass(frozen=True)
class WrongRun(Problem):
    """The manifest belongs to another InternVLTraining, perhaps an older one of the same name."""

    reason: ClassVar[str] = "WrongRun"
    expected: str
    found: str

    def __str__(self) -> str:
        return f"the manifest belongs to run {self.found}, expected {self.expected}"


@dataclass(frozen=True)
class WrongStage(Problem):
    """The manifest belongs to another stage."""

    reason: ClassVar[str] = "WrongStage"
    expected: str
    found: str

    def __str__(self) -> str:
        return f"the manifest belongs to stage {self.found!r}, expected {self.expected!r}"


@dataclass(frozen=True)
class WrongAttempt(Problem):
    """The manifest was written by another attempt than the one asked for."""

    reason: ClassVar[str] = "WrongAttempt"
    expected: int
    found: int

    def __str__(self) -> str:
        return f"the manifest was written by attempt {self.found}, expected attempt {self.expected}"


@dataclass(frozen=True)
class WrongStep(Problem):
    """The manifest is of another optimizer step than its key says."""

    reason: ClassVar[str] = "WrongStep"
    expected: int
    found: int

    def __str__(self) -> str:
        return f"the manifest is of step {self.found}, expected step {self.expected}"


@dataclass(frozen=True)
class NotFinal(Problem):
    """The stage had steps left when this checkpoint was written."""

    reason: ClassVar[str] = "NotFinal"
    step: int
    total_steps: int

    def __str__(self) -> str:
        return f"the checkpoint is of step {self.step} of {self.total_steps}, the final one is asked for"


@dataclass(frozen=True)
class WrongComponent(Problem):
    """A component manifest offers another component than the one asked for."""

    reason: ClassVar[str] = "WrongComponent"
    expected: Component
    found: Component

    def __str__(self) -> str:
        return f"the manifest offers component {self.found}, expected {self.expected}"


@dataclass(frozen=True)
class UnsafeKey(Problem):
    """An object's key would lead out of the manifest's folder; nobody may read or write such a key."""

    reason: ClassVar[str] = "UnsafeKey"
    key: str

    def __str__(self) -> str:
        return f"object key {self.key!r} is not a plain path below the manifest's folder"


@dataclass(frozen=True)
class MissingObject(Problem):
    """The manifest names an object that the store does not have."""

    reason: ClassVar[str] = "MissingObject"
    key: str
    size: int

    def __str__(self) -> str:
        return f"object {self.key} ({self.size} bytes) is missing"


@dataclass(frozen=True)
class SizeMismatch(Problem):
    """An object is shorter or longer than its writer said."""

    reason: ClassVar[str] = "SizeMismatch"
    key: str
    expected: int
    found: int

    def __str__(self) -> str:
        return f"object {self.key} has {self.found} bytes, the manifest says {self.expected}"


@dataclass(frozen=True)
class ETagMismatch(Problem):
    """An object was written again after its checkpoint was committed."""

    reason: ClassVar[str] = "ETagMismatch"
    key: str
    expected: str
    found: str

    def __str__(self) -> str:
        return f"object {self.key} has ETag {self.found}, the manifest says {self.expected}"


@dataclass(frozen=True)
class DigestMismatch(Problem):
    """An object's bytes are not those that its writer hashed."""

    reason: ClassVar[str] = "DigestMismatch"
    key: str
    expected: str
    found: str

    def __str__(self) -> str:
        return f"object {self.key} has sha256 {self.found}, the manifest says {self.expected}"


class Verdict(NamedTuple):
    """The parsed manifest, None where it does not parse, and everything that is wrong."""

    manifest: Manifest | None
    problems: tuple[Problem, ...]

    @property
    def passed(self) -> bool:
        """Whether the checkpoint may be used."""
        return self.manifest is not None and not self.problems


class ComponentVerdict(NamedTuple):
    """The parsed component manifest, None where it does not parse, and everything that is wrong."""

    manifest: ComponentManifest | None
    problems: tuple[Problem, ...]

    @property
    def passed(self) -> bool:
        """Whether the component may be used, as far as its own manifest tells: its source is verified apart."""
        return self.manifest is not None and not self.problems


class Candidate(NamedTuple):
    """A checkpoint manifest that a listing showed; its bytes are still unread."""

    key: keys.CheckpointKey
    uri: str


def candidates(uris: Iterable[str], *, stage: str, max_attempt: int) -> list[Candidate]:
    """The checkpoint manifests among `uris` that attempt `max_attempt` of `stage` may use, newest first.

    Newest is the highest step and, at one step, the highest attempt. Manifests of later attempts are left out: an
    attempt that still sees one has been replaced, and its successor's work is not its own to build on.
    """
    found = ((keys.parse_manifest_key(uri), uri) for uri in uris)
    mine = [Candidate(key, uri) for key, uri in found if key and key.stage == stage and key.attempt <= max_attempt]
    return sorted(mine, key=lambda candidate: (candidate.key.step, candidate.key.attempt), reverse=True)


def parse[Document: Contract](kind: type[Document], payload: bytes) -> Document | Unparsable:
    """A manifest of the given kind, or why the bytes are none."""
    try:
        return kind.from_bytes(payload)
    except BrokenSealError as error:
        return Unparsable(str(error))
    except ValidationError as error:
        # Only places and kinds of fault, never the input: a foreign object at this key may hold anything.
        faults = [f"{'.'.join(map(str, fault['loc'])) or 'document'}: {fault['type']}" for fault in error.errors()]
        return Unparsable("; ".join(faults[:5]))


def judge_manifest(payload: bytes, expected: Expected) -> Verdict:
    """Check a checkpoint manifest's own bytes and fields, without looking at its objects."""
    problems = _digest_problems(payload, expected)
    parsed = parse(Manifest, payload)
    if isinstance(parsed, Unparsable):
        return Verdict(None, (*problems, parsed))
    problems += _origin_problems(parsed, expected)
    if expected.final and not parsed.is_final:
        problems.append(NotFinal(parsed.step, parsed.total_steps))
    problems += [UnsafeKey(stored.key) for stored in parsed.objects if not is_safe_key(stored.key)]
    return Verdict(parsed, tuple(problems))


def judge_objects(manifest: Manifest, observed: Mapping[str, Observed]) -> tuple[Problem, ...]:
    """Check the objects of a checkpoint against what the store shows.

    Args:
        manifest: a manifest that `judge_manifest` passed.
        observed: by key relative to the manifest's folder. Objects that the manifest does not name are no problem:
            a checkpoint consists of what its manifest names. An empty ETag and an absent sha256 are not compared.
    """
    problems: list[Problem] = []
    for stored in manifest.objects:
        seen = observed.get(stored.key)
        if seen is None:
            problems.append(MissingObject(stored.key, stored.size))
        elif seen.size != stored.size:
            problems.append(SizeMismatch(stored.key, stored.size, seen.size))
        elif seen.sha256 is not None and seen.sha256 != stored.sha256:
            problems.append(DigestMismatch(stored.key, stored.sha256, seen.sha256))
        elif stored.etag and seen.etag and seen.etag.strip('"') != stored.etag.strip('"'):
            problems.append(ETagMismatch(stored.key, stored.etag, seen.etag))
    return tuple(problems)


def judge(payload: bytes, observed: Mapping[str, Observed], expected: Expected) -> Verdict:
    """Check a manifest and its objects together: `judge_manifest`, then `judge_objects` where the manifest parses."""
    verdict = judge_manifest(payload, expected)
    if verdict.manifest is None:
        return verdict
    return Verdict(verdict.manifest, verdict.problems + judge_objects(verdict.manifest, observed))


def judge_component(payload: bytes, component: Component, expected: Expected) -> ComponentVerdict:
    """Check a component manifest's own bytes and fields; `expected.final` does not apply to it.

    The checkpoint that it points at is checked by `judge` with `Expected(sha256=manifest.source.sha256)`.
    """
    problems = _digest_problems(payload, expected)
    parsed = parse(ComponentManifest, payload)
    if isinstance(parsed, Unparsable):
        return ComponentVerdict(None, (*problems, parsed))
    problems += _origin_problems(parsed, expected)
    if parsed.component != component:
        problems.append(WrongComponent(component, parsed.component))
    return ComponentVerdict(parsed, tuple(problems))


def is_safe_key(key: str) -> bool:
    """Whether `key` is a plain relative path: no root, no `..`, no empty or `.` segment, no backslash."""
    segments = key.split("/")
    return "\\" not in key and not PurePosixPath(key).is_absolute() and not {"", ".", ".."} & set(segments)


def _digest_problems(payload: bytes, expected: Expected) -> list[Problem]:
    found = hashlib.sha256(payload).hexdigest()
    if expected.sha256 is not None and found != expected.sha256:
        return [ManifestDigestMismatch(expected.sha256, found)]
    return []


def _origin_problems(found: Manifest | ComponentManifest, expected: Expected) -> list[Problem]:
    problems: list[Problem] = []
    if expected.run_uid is not None and found.run.uid != expected.run_uid:
        problems.append(WrongRun(expected.run_uid, found.run.uid))
    if expected.stage is not None and found.stage != expected.stage:
        problems.append(WrongStage(expected.stage, found.stage))
    if expected.attempt is not None and found.attempt != expected.attempt:
        problems.append(WrongAttempt(expected.attempt, found.attempt))
    if expected.step is not None and found.step != expected.step:
        problems.append(WrongStep(expected.step, found.step))
    return problems
