"""Between scratch and object store: many files at once, verified on the way. Torch-free."""

import tempfile
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from internvl_trainer.checkpoint.errors import InvalidCheckpointError
from internvl_trainer.contract import gate
from internvl_trainer.contract.manifest import Manifest, StoredObject
from internvl_trainer.storage import ObjectNotFoundError, ObjectStore

THREADS = 4


def upload_folder(store: ObjectStore, folder: Path, prefix: str) -> list[StoredObject]:
    """Upload all files of `folder` to `prefix`, which ends with a slash; keys are relative to it.

    Raises:
        StoreError: the first one of any file; the others are still waited for.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())

    def upload(path: Path) -> StoredObject:
        key = path.relative_to(folder).as_posix()
        return store.upload(path, prefix + key).model_copy(update={"key": key})

    return _concurrently(upload, files)


def download_objects(store: ObjectStore, manifest_uri: str, wanted: Iterable[StoredObject], folder: Path) -> None:
    """Download objects of a checkpoint into `folder`, and compare size and sha256 of what arrived.

    Raises:
        InvalidCheckpointError: lists every object that is missing or has other bytes than its writer hashed.
        StoreError: the store did not answer.
    """
    prefix = manifest_uri.rpartition("/")[0] + "/"

    def fetch(stored: StoredObject) -> gate.Problem | None:
        if not gate.is_safe_key(stored.key):
            return gate.UnsafeKey(stored.key)
        try:
            found = store.download(prefix + stored.key, folder / stored.key)
        except ObjectNotFoundError:
            return gate.MissingObject(stored.key, stored.size)
        if found.size != stored.size:
            return gate.SizeMismatch(stored.key, stored.size, found.size)
        if found.sha256 != stored.sha256:
            return gate.DigestMismatch(stored.key, stored.sha256, found.sha256)
        return None

    problems = [problem for problem in _concurrently(fetch, list(wanted)) if problem]
    if problems:
        raise InvalidCheckpointError.of(manifest_uri, problems)


def read_object(store: ObjectStore, manifest_uri: str, manifest: Manifest, key: str) -> bytes:
    """The bytes of one small object of a checkpoint, verified.

    Raises:
        InvalidCheckpointError: the manifest does not name it, it is missing, or it has other bytes.
        StoreError: the store did not answer.
    """
    with tempfile.TemporaryDirectory() as folder:
        download_objects(store, manifest_uri, named(manifest, [key]), Path(folder))
        return (Path(folder) / key).read_bytes()


def named(manifest: Manifest, keys: Collection[str]) -> list[StoredObject]:
    """The manifest's objects with these keys.

    Raises:
        InvalidCheckpointError: the manifest does not name one of them.
    """
    objects = {stored.key: stored for stored in manifest.objects}
    unknown = sorted(set(keys) - objects.keys())
    if unknown:
        raise InvalidCheckpointError(f"the manifest names no object {', '.join(unknown)}, which is needed")
    return [objects[key] for key in sorted(keys)]


def _concurrently[Item, Result](action: Callable[[Item], Result], items: list[Item]) -> list[Result]:
    with ThreadPoolExecutor(THREADS, thread_name_prefix="transfer") as pool:
        return list(pool.map(action, items))
