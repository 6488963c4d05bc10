"""Removing what was found to be garbage: manifests first, then objects, and nothing that has changed since."""

from internvl_trainer.checkpoint.garbage import Finding, ForgottenUpload, Orphans
from internvl_trainer.contract import keys
from internvl_trainer.storage import ObjectNotFoundError, ObjectStore


def sweep(store: ObjectStore, finding: Finding) -> bool:
    """Remove one finding, unless somebody has come back to it since it was found.

    Objects that have vanished meanwhile are no error. Where this is interrupted, what is left of a checkpoint has no
    manifest any more, and is found again.

    Returns:
        whether it was removed.

    Raises:
        StoreError: the store did not answer.
    """
    if isinstance(finding, ForgottenUpload):
        store.abort_upload(finding.upload)
        return True
    if isinstance(finding, Orphans):
        present = list(store.list(finding.folder.uri))
        # An object more, or another one: somebody saves here. And a listing may be behind, and not show a manifest.
        if not set(present) <= set(finding.objects) or _exists(store, finding.folder.manifest_uri):
            return False
        store.delete_all(info.uri for info in present)
        return True
    return remove_checkpoint(store, finding.folder.manifest_uri) is not None


def remove_checkpoint(store: ObjectStore, manifest_uri: str) -> int | None:
    """Remove a checkpoint, its manifest first, unless somebody has pinned it or published from it meanwhile.

    Returns:
        the number of objects that went with the manifest; None where it stays.

    Raises:
        StoreError: the store did not answer. What is left then is no checkpoint any more, if anything is gone.
    """
    folder = keys.folder_of(manifest_uri)
    present = [info.uri for info in store.list(folder)]
    offers = f"{folder}published/"
    if _exists(store, keys.pin_uri(manifest_uri)) or any(uri.startswith(offers) for uri in present):
        return None
    store.delete(manifest_uri)
    objects = [uri for uri in present if uri != manifest_uri]
    store.delete_all(objects)
    return len(objects)


def _exists(store: ObjectStore, uri: str) -> bool:
    try:
        store.stat(uri)
    except ObjectNotFoundError:
        return False
    return True
