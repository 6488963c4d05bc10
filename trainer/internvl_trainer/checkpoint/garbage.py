"""What of a store's checkpoints nobody needs any more, and why. Pure: from an inventory to findings.

Never found: what is pinned or handed on, a stage's last checkpoint, the newest sound one of a stage, what cannot be
read, what a living attempt may still be uploading, and anything that does not lie where our checkpoints lie.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import ClassVar, NamedTuple

from internvl_trainer.checkpoint.inventory import CheckpointFolder, Inventory, Stage
from internvl_trainer.contract import retention
from internvl_trainer.contract.manifest import Manifest
from internvl_trainer.contract.retention import Kept, Retention
from internvl_trainer.storage import ObjectInfo, UnfinishedUpload


class Rules(NamedTuple):
    """What counts as garbage.

    Attributes:
        retention: which checkpoints of a stage are kept; by default all.
        older_than: the age from which on nobody is taken to be still at work.
        now: the time of the inventory.
    """

    retention: Retention
    older_than: timedelta
    now: datetime


@dataclass(frozen=True)
class Finding:
    """Something that may go. `objects` in the order in which they are to be removed."""

    kind: ClassVar[str]
    folder: CheckpointFolder
    reason: str
    objects: tuple[ObjectInfo, ...]

    @property
    def uri(self) -> str:
        """Where it is."""
        return self.folder.uri

    @property
    def size(self) -> int:
        """Bytes of all objects."""
        return sum(info.size for info in self.objects)


@dataclass(frozen=True)
class SupersededCheckpoint(Finding):
    """A checkpoint that the retention policy lets go."""

    kind = "superseded"


@dataclass(frozen=True)
class LateCheckpoint(Finding):
    """A checkpoint that a replaced attempt has committed after its successor had begun: it never counts."""

    kind = "late"


@dataclass(frozen=True)
class Orphans(Finding):
    """Objects that no manifest names: of a save that did not come to its end, or of a removal."""

    kind = "orphans"


@dataclass(frozen=True)
class ForgottenUpload(Finding):
    """Parts of an object that nobody will complete. Their size is not known."""

    kind = "upload"
    upload: UnfinishedUpload

    @property
    def uri(self) -> str:
        """Of the object that would have come into being."""
        return self.upload.uri


def plan(inventory: Inventory, rules: Rules) -> list[Finding]:
    """All that may go, by stage, step and attempt."""
    return [finding for stage in inventory.stages for finding in _Judge(inventory, stage, rules).findings()]


def stock(inventory: Inventory, stage: Stage) -> list[Kept]:
    """The checkpoints of a stage that a run could go on from, and what speaks for keeping each.

    Damaged ones and those that a later attempt has left behind are none of them: they may not take the place of one
    that is kept.
    """
    return [
        Kept(folder.candidate, final=_is_final(folder), held=_is_held(inventory, folder))
        for folder in stage.folders
        if folder.is_sound and folder.manifest_uri in stage.admissible
    ]


class _Judge:
    """Goes through one stage."""

    def __init__(self, inventory: Inventory, stage: Stage, rules: Rules) -> None:
        self._inventory = inventory
        self._stage = stage
        self._rules = rules
        stocked = stock(inventory, stage)
        self._superseded = {candidate.uri for candidate in retention.superseded(stocked, rules.retention)}
        sound = [kept.candidate for kept in stocked] or [each.candidate for each in stage.folders if each.is_sound]
        self._newest = max(sound, key=lambda each: (each.key.step, each.key.attempt), default=None)

    def findings(self) -> Iterator[Finding]:
        """What of the stage may go."""
        for folder in self._stage.folders:
            finding = self._checkpoint(folder) if folder.manifest is not None else self._orphans(folder)
            if finding is not None:
                yield finding
            for upload in folder.uploads:
                reason = self._why_ended(folder, upload.begun)
                if reason is not None:
                    yield ForgottenUpload(folder, f"unfinished upload: {reason}", (), upload)

    def _checkpoint(self, folder: CheckpointFolder) -> Finding | None:
        """Whether a committed checkpoint may go. Where an attempt began is not known, nobody can tell."""
        # A manifest that cannot be read may be of a last checkpoint: somebody has to look.
        if self._stage.has_unknown_fences or _manifest_of(folder) is None:
            return None
        uri = folder.manifest_uri
        if _is_final(folder) or _is_held(self._inventory, folder) or folder.candidate == self._newest:
            return None
        manifest_first = tuple(sorted(folder.objects, key=lambda info: (info.uri != uri, info.uri)))
        if uri in self._superseded:
            return SupersededCheckpoint(folder, _policy_in_words(self._rules.retention), manifest_first)
        if uri not in self._stage.admissible and self._is_old(folder.objects):
            return LateCheckpoint(folder, "committed after a later attempt had begun: it never counts", manifest_first)
        return None

    def _orphans(self, folder: CheckpointFolder) -> Finding | None:
        if not folder.objects or _is_held(self._inventory, folder):
            return None
        # In an upload that is under way, objects appear one after the other.
        moments = [*(info.modified for info in folder.objects), *(upload.begun for upload in folder.uploads)]
        reasons = [self._why_ended(folder, moment) for moment in moments]
        if not all(reasons):
            return None
        return Orphans(folder, f"no manifest: {reasons[0]}", folder.objects)

    def _why_ended(self, folder: CheckpointFolder, moment: datetime | None) -> str | None:
        """Why nobody goes on with what was written at a moment; None where somebody may."""
        if moment is None:
            return None
        successors = [(record.attempt, record.info.modified) for record in self._stage.records]
        successors += [(other.key.attempt, _committed_at(other)) for other in self._stage.folders]
        later = [attempt for attempt, at in successors if attempt > folder.key.attempt and at and at >= moment]
        if later:
            return f"attempt {folder.key.attempt} was replaced by attempt {max(later)} since"
        if self._rules.now - moment > self._rules.older_than:
            return f"older than {in_words(self._rules.older_than)}"
        return None

    def _is_old(self, objects: tuple[ObjectInfo, ...]) -> bool:
        ages = [self._rules.now - info.modified if info.modified else timedelta(0) for info in objects]
        return min(ages) > self._rules.older_than


def in_words(age: timedelta) -> str:
    """An age as the command line takes it: 90m, 24h, 7d."""
    minutes = int(age.total_seconds() // 60)
    if minutes % 60:
        return f"{minutes}m"
    hours = minutes // 60
    return f"{hours // 24}d" if hours % 24 == 0 and hours > 24 else f"{hours}h"


def _policy_in_words(policy: Retention) -> str:
    every = f", nor at a multiple of {policy.keep_every} steps" if policy.keep_every else ""
    return f"not among the last {policy.keep_last}{every}"


def _manifest_of(folder: CheckpointFolder) -> Manifest | None:
    return folder.manifest.verdict.manifest if folder.manifest is not None else None


def _is_final(folder: CheckpointFolder) -> bool:
    manifest = _manifest_of(folder)
    return manifest is not None and manifest.is_final


def _is_held(inventory: Inventory, folder: CheckpointFolder) -> bool:
    return folder.is_pinned or folder.has_offers or inventory.is_handed_on(folder.manifest_uri)


def _committed_at(folder: CheckpointFolder) -> datetime | None:
    return next((info.modified for info in folder.objects if info.uri == folder.manifest_uri), None)
