"""Annotation files where they lie: read in place or by ranges, and never of another version than was opened."""

import os
import pickle
from pathlib import Path

import pytest

from internvl_trainer.data.errors import MetaError
from internvl_trainer.data.index.lines import AnnotationChangedError, open_annotation
from internvl_trainer.storage import open_store

pytestmark = pytest.mark.unit


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "set.jsonl"
    file.write_bytes(b"0123456789")
    return file


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_local_file_is_read_where_it_is(path: Path, tmp_path: Path, scheme: str) -> None:
    file = open_annotation(f"{scheme}{path}", open_store(), tmp_path / "cache")
    assert (file.size, file.read(3, 4)) == (10, b"3456")
    assert pickle.loads(pickle.dumps(file)).read(0, 2) == b"01"
    assert not (tmp_path / "cache").exists()


def test_a_file_that_was_changed_is_another_one(path: Path, tmp_path: Path) -> None:
    before = open_annotation(str(path), open_store(), tmp_path)
    assert open_annotation(str(path), open_store(), tmp_path).fingerprint == before.fingerprint

    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))

    assert open_annotation(str(path), open_store(), tmp_path).fingerprint != before.fingerprint
    with pytest.raises(AnnotationChangedError, match=r"set\.jsonl was changed while it was in use; start again"):
        before.read(0, 1)


def test_a_file_that_went_away_is_told(path: Path, tmp_path: Path) -> None:
    file = open_annotation(str(path), open_store(), tmp_path)
    path.unlink()
    with pytest.raises(AnnotationChangedError, match=r"set\.jsonl was changed"):
        file.read(0, 1)
    with pytest.raises(MetaError, match=r"annotation .*set\.jsonl does not exist; correct the meta JSON"):
        open_annotation(str(path), open_store(), tmp_path)


def test_a_folder_is_no_annotation_file(tmp_path: Path) -> None:
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(MetaError, match=r"annotation .*folder\.jsonl is no file; give a \.jsonl file"):
        open_annotation(f"{tmp_path}/folder.jsonl", open_store(), tmp_path)
