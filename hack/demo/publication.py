"""The data set in the object store, under the digest of what made it: made and uploaded once, then found again."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from hack.demo import dataset, pictures, records, tokenizer
from internvl_trainer.storage import ObjectStore

_MAKERS: tuple[ModuleType, ...] = (dataset, pictures, records, tokenizer)
_COMPLETE = "COMPLETE"


def digest() -> str:
    """Names the data set that today's code makes. Any change of the code makes another one."""
    sources = b"".join(Path(str(maker.__file__)).read_bytes() for maker in _MAKERS)
    return hashlib.sha256(sources).hexdigest()[:16]


def make(root: Path, *, packages: Path) -> Path:
    """The folder of the data set below `root`, drawn where it is not there yet.

    Raises:
        PackageError: apt could not bring the font.
    """
    folder = root / digest()
    stamp = root / f"{folder.name}.complete"
    if not stamp.exists():
        dataset.write(dataset.open_set(packages), folder)
        stamp.write_text("")
    return folder


def publish(folder: Path, prefix: str, store: ObjectStore, *, say: Callable[[str], None]) -> str:
    """Upload a data set unless it is there already, and return its URI.

    Raises:
        StoreError: the object store did not take it.
    """
    uri = f"{prefix}/{folder.name}"
    marker = f"{uri}/{_COMPLETE}"
    if any(found.uri == marker for found in store.list(marker)):
        say(f"the data set is in {uri} already")
        return uri
    files = dataset.upload(folder, uri, store)
    store.put_if_absent(marker, b"complete\n")
    say(f"{files} files in {uri}")
    return uri
