"""Authorities' certificates in files: private, one for each text, and gone when nobody needs them."""

import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from hack.cluster.certs import Authority
from internvl_operator.adapters import object_store
from internvl_operator.adapters.certificates import CertificateFiles, are_readable
from internvl_operator.adapters.object_store import Credentials, ObjectStores, StoreAddress
from internvl_operator.config import GateSettings

pytestmark = pytest.mark.unit

PEM = Authority("corp").pair.certificate.decode()


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[CertificateFiles]:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    files = CertificateFiles()
    yield files
    files.close()


def test_nobody_else_can_read_them_and_equal_texts_share_one(files: CertificateFiles) -> None:
    path = files.path(PEM)
    assert path.read_text() == PEM
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert files.path(PEM) == path
    assert files.path(PEM + "\n") != path


def test_what_is_not_wanted_any_more_goes_and_in_the_end_all(files: CertificateFiles, tmp_path: Path) -> None:
    kept, gone = files.path(PEM), files.path("other")
    files.keep_only([PEM])
    assert (kept.exists(), gone.exists()) == (True, False)
    files.close()
    assert list(tmp_path.iterdir()) == []


def test_where_there_are_none_nothing_is_written(files: CertificateFiles, tmp_path: Path) -> None:
    files.keep_only([])
    files.close()
    assert list(tmp_path.iterdir()) == []


def test_clients_that_are_forgotten_leave_no_file_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(object_store, "_CACHED_CLIENTS", 2)
    stores = ObjectStores(GateSettings(threads=1))
    for number in range(4):
        pem = Authority(f"corp {number}").pair.certificate.decode()
        stores._backend(StoreAddress("https://s3.corp", None, True, Credentials("key", "secret"), pem), "s3://a/b")
    assert len(list(tmp_path.glob("*/*.crt"))) == 2
    stores.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("pem", [PEM, PEM + PEM, f"# Zertifikat für S3\n{PEM}"], ids=["one", "two", "with a comment"])
def test_certificates_are_told_from_what_is_none(pem: str) -> None:
    assert are_readable(pem)


@pytest.mark.parametrize(
    "text", ["", "\n", "hello", PEM[:100], PEM.replace("CERTIFICATE", "PRIVATE KEY")], ids=range(5)
)
def test_what_is_none_is_told_from_certificates(text: str) -> None:
    assert not are_readable(text)
