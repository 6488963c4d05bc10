"""Stores that ignore what S3 has learned: conditional writes, checksums. The server is real, the client sends less."""

import logging
from pathlib import Path
from typing import Any

import pytest

from hack.cluster.object_store import ObjectStore as S3Server
from internvl_trainer.checkpoint import checkpointer as checkpointer_module
from internvl_trainer.contract.object_digest import BLOCK_BYTES
from internvl_trainer.storage import AlreadyExistsError, ObjectStore, Traits, open_store
from internvl_trainer.storage import s3 as s3_module
from internvl_trainer.storage.s3_client import make_client
from tests.integration.checkpoint.stories import Setting

pytestmark = pytest.mark.integration


def without(headers: tuple[str, ...]) -> Any:
    """A maker of clients whose requests lose some headers before they are signed: the store never sees them."""

    def make(*options: Any, **more: Any) -> Any:
        client = make_client(*options, **more)

        def strip(request: Any, **_: Any) -> None:
            for name in [name for name in request.headers if name.lower().startswith(headers)]:
                del request.headers[name]

        client.meta.events.register("before-sign.s3", strip)
        return client

    return make


@pytest.fixture
def prefix(tmp_path: Path) -> str:
    return f"s3://checkpoints/{tmp_path.name}"


def opened(s3_server: S3Server) -> ObjectStore:
    return open_store(endpoint_url=s3_server.endpoint)


def test_a_store_of_today_shows_what_it_can(s3_server: S3Server, prefix: str) -> None:
    store = opened(s3_server)
    assert store.probe(prefix) == Traits(conditional_writes=True, checksum="CRC64NVME")
    assert list(store.list(f"{prefix}/")) == [], "the probe leaves nothing behind"


def test_a_folder_links_exclusively_and_compares_nothing(tmp_path: Path) -> None:
    assert open_store().probe(f"file://{tmp_path}") == Traits(conditional_writes=True, checksum=None)


def test_a_store_without_conditional_writes_is_found_out_and_still_tells_who_was_first(
    s3_server: S3Server, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_module, "make_client", without(("if-none-match",)))
    store = opened(s3_server)
    store.put_if_absent(f"{prefix}/trusting", b"first")
    store.put_if_absent(f"{prefix}/trusting", b"second")
    assert store.read(f"{prefix}/trusting") == b"second", "a client that trusts the header overwrites"

    traits = store.probe(prefix)
    assert not traits.conditional_writes
    store = store.with_traits(traits)
    store.put_if_absent(f"{prefix}/MANIFEST.json", b"first")
    with pytest.raises(AlreadyExistsError):
        store.put_if_absent(f"{prefix}/MANIFEST.json", b"second")
    assert store.read(f"{prefix}/MANIFEST.json") == b"first"


def test_that_is_said_aloud(
    s3_server: S3Server,
    tmp_path: Path,
    prefix: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(s3_module, "make_client", without(("if-none-match",)))
    job = Setting(tmp_path, prefix, s3_server.endpoint).job()
    with caplog.at_level(logging.INFO):
        checkpointer_module._traits(job, opened(s3_server))
    (record,) = [each for each in caplog.records if each.name == checkpointer_module.__name__]
    assert record.levelno == logging.WARNING
    assert "IGNORES conditional writes" in record.getMessage()
    assert "verifies CRC64NVME of uploads" in record.getMessage()


@pytest.mark.parametrize(
    ("ignored", "expected"),
    [(("x-amz-checksum-crc64nvme",), "CRC32"), (("x-amz-checksum", "x-amz-sdk-checksum"), None)],
    ids=["no CRC64NVME", "no checksums"],
)
def test_the_best_checksum_that_the_store_verifies_is_used(
    s3_server: S3Server,
    prefix: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ignored: tuple[str, ...],
    expected: str | None,
) -> None:
    monkeypatch.setattr(s3_module, "make_client", without(ignored))
    store = opened(s3_server)
    traits = store.probe(prefix)
    assert traits == Traits(conditional_writes=True, checksum=expected)

    (tmp_path / "shard").write_bytes(bytes(BLOCK_BYTES + 1))
    stored = store.with_traits(traits).upload(tmp_path / "shard", f"{prefix}/shard")
    assert bool(stored.crc32) == (expected == "CRC32")
    assert bool(stored.crc64nvme) == (expected is None), "the manifest has one in any case"
    assert store.stat(f"{prefix}/shard").size == BLOCK_BYTES + 1


@pytest.mark.parametrize(("mode", "expected"), [("none", None), ("CRC32", "CRC32"), ("auto", "CRC64NVME")])
def test_what_the_config_says_of_checksums_counts_more_than_the_probe(
    s3_server: S3Server, prefix: str, tmp_path: Path, mode: str, expected: str | None
) -> None:
    job = Setting(tmp_path, prefix, s3_server.endpoint).job()
    storage = job.storage.model_copy(update={"checksums": mode})
    traits = checkpointer_module._traits(job.model_copy(update={"storage": storage}), opened(s3_server))
    assert traits.checksum == expected
