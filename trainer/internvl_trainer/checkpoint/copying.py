"""Copying a checkpoint, or what some of its components need, to another place, perhaps in another store. Torch-free.

Every byte is compared with the source's digests on its way down and hashed again on its way up; the copy's manifest is
written last, and says what it is a copy of. A copy that did not come to its end can simply be started again.
"""

import shutil
import tempfile
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from internvl_trainer.checkpoint import commit, verify
from internvl_trainer.checkpoint.components import STATE
from internvl_trainer.checkpoint.errors import (
    CheckpointConflictError,
    DestinationError,
    InvalidCheckpointError,
    ScratchError,
)
from internvl_trainer.checkpoint.offers import Offered, offer_of, put_offer
from internvl_trainer.checkpoint.transfer import Told, Transfers, Wanted
from internvl_trainer.checkpoint.verify import Source
from internvl_trainer.contract import gate, keys
from internvl_trainer.contract.base import Component
from internvl_trainer.contract.manifest import Manifest, ManifestRef, StoredObject
from internvl_trainer.storage import ObjectNotFoundError, ObjectStore, Traits

GROUP = 512 * 1024 * 1024
"""Bytes that are in scratch before they are uploaded, unless one object alone is larger."""


class Plan(NamedTuple):
    """What is to be copied, and where to.

    Attributes:
        source: a verified checkpoint.
        components: the parts that are wanted; none: the checkpoint as it is.
        manifest: of the copy, its objects still the source's.
        uri: of the copy's manifest.
    """

    source: Source
    components: tuple[Component, ...]
    manifest: Manifest
    uri: str

    @property
    def size(self) -> int:
        """Bytes to copy."""
        return self.manifest.total_bytes


class Copied(NamedTuple):
    """A copy that exists, and what it offers: one component manifest for each component that was asked for."""

    ref: ManifestRef
    manifest: Manifest
    offers: tuple[Offered, ...]
    traits: Traits | None
    """What the copy's store can do; None: an earlier call had copied it already."""


def plan(source: Source, folder_uri: str, components: Collection[Component] = ()) -> Plan:
    """Find out what a copy to a folder consists of.

    Args:
        source: a verified checkpoint, which may be a copy itself.
        folder_uri: where the copy's manifest and objects go.
        components: all that the copy is to hold; none: everything, optimizer included.

    Raises:
        InvalidCheckpointError: the source does not hold one of the components.
        DestinationError: the folder is called like the place of another step, stage or attempt.
    """
    manifest, wanted = source.manifest, tuple(component for component in Component if component in components)
    uri = f"{folder_uri.rstrip('/')}/{keys.MANIFEST_NAME}"
    problems = gate.judge_manifest(manifest.to_bytes(), verify.expected_by_key(uri)).problems
    if problems:
        raise DestinationError(
            f"{folder_uri} is the place of another checkpoint: {'; '.join(map(str, problems))}; "
            "name the folder otherwise, or as the source's is named"
        )
    # A link of the history is the checkpoint that was trained, however often it has been copied since.
    changes: dict[str, object] = {"copied_from": manifest.copied_from or source.ref}
    if wanted:
        for component in wanted:
            offer_of(source, component)
        changes["components"] = {name: held for name, held in manifest.components.items() if name in {*wanted, STATE}}
        changes["objects"] = tuple(
            stored for stored in manifest.objects if not stored.components or {*wanted} & {*stored.components}
        )
    return Plan(source, wanted, manifest.model_copy(update=changes), uri)


def copy(
    plan: Plan,
    source_store: ObjectStore,
    store: ObjectStore,
    *,
    scratch: Path | None = None,
    read: Told = lambda size: None,
    written: Told = lambda size: None,
) -> Copied:
    """Carry a plan out. Doing it again is no error, and goes on where there is something left to do.

    Args:
        plan: what to copy.
        source_store: opened for the source.
        store: opened for the copy. What it can do is found out here, with a few small writes.
        scratch: a folder with room for 1 GiB, or for the two largest objects; default: the system's temporary folder.
        read, written: told how many bytes more have been downloaded, and uploaded.

    Raises:
        CheckpointConflictError: another checkpoint, or anything else, lies at the destination.
        InvalidCheckpointError: an object has other bytes than its writer hashed, or an earlier copy is damaged.
        ScratchError: scratch gave back other bytes than it was given.
        StoreError: a store did not answer. No copy exists then.
    """
    ref, manifest = _committed_before(plan, store), plan.manifest
    traits = None
    if ref is None:
        _check_destination(plan, store)
        traits = store.probe(keys.folder_of(plan.uri))
        store = store.with_traits(traits)
        with tempfile.TemporaryDirectory(prefix="internvl-copy-", dir=scratch) as folder:
            objects = _transfer(plan, source_store, store, Path(folder), read, written)
        manifest = manifest.model_copy(update={"objects": tuple(sorted(objects, key=lambda stored: stored.key))})
        commit.confirm(store, plan.uri, manifest)
        ref = commit.put_manifest(store, plan.uri, manifest.to_bytes())
    mine = Source(ref, manifest)
    offers = [
        put_offer(store, keys.published_by_hand_uri(plan.uri, component), offer_of(mine, component))
        for component in plan.components
    ]
    return Copied(ref, manifest, tuple(offers), traits)


def _committed_before(plan: Plan, store: ObjectStore) -> ManifestRef | None:
    """The same copy, where it is there already; None where no checkpoint is there."""
    try:
        found = verify.open_checkpoint(store, plan.uri, verify.expected_by_key(plan.uri))
    except ObjectNotFoundError:
        return None
    if not isinstance(found, Source):
        raise InvalidCheckpointError(
            f"{InvalidCheckpointError.of(plan.uri, found)}. It is committed and is never written again; "
            "name another destination"
        )
    if _content(found.manifest) != _content(plan.manifest):
        raise CheckpointConflictError(
            f"{plan.uri} is another checkpoint already, or another part of this one; name another destination"
        )
    return found.ref


def _content(manifest: Manifest) -> object:
    """What makes two copies the same, whatever stores they lie in."""
    objects = {(stored.key, stored.size, stored.sha256) for stored in manifest.objects}
    return manifest.copied_from, manifest.components, objects


def _check_destination(plan: Plan, store: ObjectStore) -> None:
    """Nothing may be there but what this copy, or its probe, may have left."""
    prefix = keys.folder_of(plan.uri)
    ours = {stored.key for stored in plan.manifest.objects} | {".probe"}
    foreign = [name for info in store.list(prefix) if (name := info.uri.removeprefix(prefix)) not in ours]
    if foreign:
        raise CheckpointConflictError(
            f"{prefix} holds {len(foreign)} objects of something else, {foreign[0]} among them; "
            "name a destination that does not exist"
        )


def _transfer(
    plan: Plan, source_store: ObjectStore, store: ObjectStore, scratch: Path, read: Told, written: Told
) -> list[StoredObject]:
    """Download one group of objects while the one before is being uploaded."""
    uploaded: list[StoredObject] = []
    pending: Future[list[StoredObject]] | None = None
    with Transfers(source_store) as down, Transfers(store) as up, ThreadPoolExecutor(1, "upload") as thread:
        for number, group in enumerate(_groups(plan.manifest.objects)):
            folder = scratch / str(number)
            down.download(plan.source.ref.uri, [Wanted.whole(stored) for stored in group], folder, read)
            if pending is not None:
                uploaded += pending.result()
            pending = thread.submit(_upload, up, group, folder, keys.folder_of(plan.uri), written)
        return uploaded + (pending.result() if pending else [])


def _upload(
    transfers: Transfers, group: Sequence[StoredObject], folder: Path, prefix: str, written: Told
) -> list[StoredObject]:
    originals = {stored.key: stored for stored in group}
    uploaded = transfers.upload({key: folder / key for key in originals}, prefix, written)
    for stored in uploaded:
        if stored.sha256 != originals[stored.key].sha256:
            raise ScratchError(f"{folder / stored.key} has other bytes than were downloaded; try another --scratch")
    shutil.rmtree(folder)
    return [stored.model_copy(update={"components": originals[stored.key].components}) for stored in uploaded]


def _groups(objects: Sequence[StoredObject]) -> Iterator[list[StoredObject]]:
    group: list[StoredObject] = []
    for stored in objects:
        if group and sum(each.size for each in group) + stored.size > GROUP:
            yield group
            group = []
        group.append(stored)
    if group:
        yield group
