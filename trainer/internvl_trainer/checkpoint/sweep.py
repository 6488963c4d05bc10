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
    present = list(store.list(finding.folder.uri))
    if isinstance(finding, Orphans):
        # An object more, or another one: somebody saves here. And a listing may be behind, and not show a manifest.
        if not set(present) <= set(finding.objects) or _exists(store, finding.folder.manifest_uri):
            return False
        store.delete_all(info.uri for info in present)
        return True
    manifest = finding.folder.manifest_uri
    offers = f"{finding.folder.uri}published/"
    if _exists(store, keys.pin_uri(manifest)) or any(info.uri.startswith(offers) for info in present):
        return False
    store.delete(manifest)
    store.delete_all(info.uri for info in present if info.uri != manifest)
    return True


def _exists(store: ObjectStore, uri: str) -> bool:
    try:
        store.stat(uri)
    except ObjectNotFoundError:
        return False
    return True
