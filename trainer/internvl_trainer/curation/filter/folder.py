"""The output folder: written elsewhere, and there only when it is whole."""

import json
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from internvl_trainer.curation.filter.errors import OutputExistsError
from internvl_trainer.storage import ObjectNotFoundError, ObjectStore
from internvl_trainer.storage.unfinished import PREFIX

META = "meta.json"
REMOVED = "removed.jsonl"
REVIEW = "review.jsonl"
REPORT = "report.json"
REPORT_PAGE = "report.md"
_OURS = frozenset({REMOVED, REVIEW})


def file_of(source: str) -> str:
    """Name of a data set's file: its own, with %XX for what a file name should not have. No two share one."""
    name = quote(source, safe=" ,+=@()").replace("~", "%7E")
    if f"{name}.jsonl" in _OURS or name.startswith("."):
        name = f"%{ord(name[0]):02X}{name[1:]}"
    return f"{name}.jsonl"


def check_free(folder: str, store: ObjectStore, *, force: bool) -> None:
    """Refuse to write over something.

    Raises:
        OutputExistsError: the folder has something in it; with `force`, if it is not an earlier output of this command.
    """
    if not _has_anything(folder, store):
        return
    if not force:
        raise OutputExistsError(f"{folder} exists already; name another folder, or replace it by --force")
    try:
        store.read(_inside(folder, REPORT))
        store.read(_inside(folder, META))
    except ObjectNotFoundError:
        raise OutputExistsError(
            f"{folder} is no output of this command (it lacks {REPORT} or {META}), so --force does not replace it"
        ) from None


@contextmanager
def staged(folder: str, store: ObjectStore) -> Iterator[Path]:
    """A local folder to write into; when the block ends well, it becomes `folder`, else it is gone.

    A local folder appears by one rename. In a bucket the meta JSON is written last: without it there is no output.
    """
    local = _path(folder)
    if local is None:
        with tempfile.TemporaryDirectory(prefix="internvl-filter-") as scratch:
            yield Path(scratch)
            _upload(Path(scratch), folder, store)
        return
    local.parent.mkdir(parents=True, exist_ok=True)
    stage = local.with_name(f"{PREFIX}{secrets.token_hex(8)}")
    stage.mkdir()
    try:
        yield stage
        _swap(stage, local)
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def write_json(path: Path, document: object) -> None:
    """A JSON document, for people, too."""
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _swap(stage: Path, local: Path) -> None:
    former = local.with_name(f"{PREFIX}{secrets.token_hex(8)}")
    if local.exists():
        local.rename(former)
    stage.rename(local)
    shutil.rmtree(former, ignore_errors=True)


def _upload(stage: Path, folder: str, store: ObjectStore) -> None:
    names = sorted(path.name for path in stage.iterdir())
    # First the meta JSON goes and last it comes, so that none points at files of another run.
    store.delete(_inside(folder, META))
    for name in (name for name in names if name != META):
        store.upload(stage / name, _inside(folder, name))
    prefix = _inside(folder, "")
    for info in list(store.list(prefix)):
        name = info.uri.removeprefix(prefix)
        if "/" not in name and name not in names:
            store.delete(info.uri)
    store.upload(stage / META, _inside(folder, META))


def _has_anything(folder: str, store: ObjectStore) -> bool:
    local = _path(folder)
    if local is not None:
        return local.exists() and (not local.is_dir() or any(local.iterdir()))
    return next(store.list(_inside(folder, "")), None) is not None


def _path(folder: str) -> Path | None:
    """The folder on this machine; None for one in a bucket."""
    scheme, separator, rest = folder.partition("://")
    if not separator:
        return Path(folder)
    return Path(rest) if scheme == "file" else None


def _inside(folder: str, name: str) -> str:
    return f"{folder.rstrip('/')}/{name}"
