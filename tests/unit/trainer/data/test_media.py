"""Media are read where they are; nothing is kept."""

import pickle
from pathlib import Path

import pytest

from internvl_trainer.data.errors import MetaError
from internvl_trainer.data.media import HEADER, MediaReader, read_text_object
from internvl_trainer.storage import ObjectNotFoundError, open_store

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_an_object_is_read_whole_or_its_beginning_alone(tmp_path: Path, scheme: str) -> None:
    (tmp_path / "long").write_bytes(bytes(range(256)) * 1000)
    (tmp_path / "short").write_bytes(b"picture")
    media = pickle.loads(pickle.dumps(MediaReader(open_store())))

    assert media.read(f"{scheme}{tmp_path}/long") == bytes(range(256)) * 1000
    assert media.read_header(f"{scheme}{tmp_path}/long") == (bytes(range(256)) * 1000)[:HEADER]
    assert media.read_header(f"{scheme}{tmp_path}/short") == b"picture"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["long", "short"]


def test_what_does_not_exist_is_named(tmp_path: Path) -> None:
    media = MediaReader(open_store())
    for read in (media.read, media.read_header):
        with pytest.raises(ObjectNotFoundError, match="nothing"):
            read(f"{tmp_path}/nothing.png")
    with pytest.raises(MetaError, match=r"meta /nowhere/meta.json does not exist"):
        read_text_object(open_store(), "/nowhere/meta.json", "meta")
