"""The media cache: remote objects as local files, shared by the processes of a node."""

from pathlib import Path

import pytest

from internvl_trainer.data.errors import MetaError
from internvl_trainer.data.media import MediaCache, read_text_object
from internvl_trainer.storage import ObjectInfo, ObjectNotFoundError, open_store

pytestmark = pytest.mark.unit


class Remote:
    """A store whose objects lie in a folder but are addressed as s3://, and which counts downloads."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.downloads: list[str] = []
        self._local = open_store()

    def download(self, uri: str, path: Path) -> object:
        self.downloads.append(uri)
        return self._local.download(f"{self.folder}/{uri.removeprefix('s3://')}", path)

    def list(self, uri: str) -> list[ObjectInfo]:
        path = self.folder / uri.removeprefix("s3://")
        return [ObjectInfo(uri, path.stat().st_size, str(hash(path.read_bytes())))] if path.exists() else []


@pytest.fixture
def remote(tmp_path: Path) -> Remote:
    (tmp_path / "bucket").mkdir()
    (tmp_path / "bucket" / "a.png").write_bytes(b"picture")
    (tmp_path / "bucket" / "set.jsonl").write_bytes(b"old")
    return Remote(tmp_path)


def _cache(remote: Remote) -> MediaCache:
    return MediaCache(remote, remote.folder / "cache")  # type: ignore[arg-type]


def test_an_object_is_downloaded_once_for_all_processes_of_a_node(remote: Remote) -> None:
    paths = [_cache(remote).media("s3://bucket/a.png") for _ in range(3)]

    assert len(set(paths)) == 1
    assert paths[0].read_bytes() == b"picture"
    assert remote.downloads == ["s3://bucket/a.png"]


def test_an_annotation_that_was_replaced_is_read_anew(remote: Remote) -> None:
    assert _cache(remote).annotation("s3://bucket/set.jsonl").read_bytes() == b"old"

    (remote.folder / "bucket" / "set.jsonl").write_bytes(b"new")

    assert _cache(remote).annotation("s3://bucket/set.jsonl").read_bytes() == b"new"


def test_local_files_are_used_where_they_are(remote: Remote) -> None:
    path = remote.folder / "bucket" / "a.png"

    assert _cache(remote).media(str(path)) == path
    assert _cache(remote).media(f"file://{path}") == path
    assert remote.downloads == []


def test_what_does_not_exist_is_named(remote: Remote) -> None:
    with pytest.raises(ObjectNotFoundError):
        _cache(remote).media("s3://bucket/b.png")
    with pytest.raises(MetaError, match=r"annotation s3://bucket/b.jsonl does not exist"):
        _cache(remote).annotation("s3://bucket/b.jsonl")
    with pytest.raises(MetaError, match=r"meta /nowhere/meta.json does not exist"):
        read_text_object(open_store(), "/nowhere/meta.json", "meta")
