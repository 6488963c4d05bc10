"""A folder keeps the promises of an object store."""

import base64
import hashlib
import pickle
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internvl_trainer.contract.exit_codes import ExitCode
from internvl_trainer.contract.object_digest import ObjectDigest
from internvl_trainer.storage import (
    AlreadyExistsError,
    InvalidLocationError,
    ObjectNotFoundError,
    StoreDeniedError,
    StoreUnavailableError,
    open_store,
)
from internvl_trainer.storage.digest import CHECKSUMS, StreamChecksum, StreamDigest

pytestmark = pytest.mark.unit


@pytest.fixture(params=["file://", ""], ids=["file-uri", "path"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"{request.param}{tmp_path}/store"


def test_the_second_conditional_put_finds_the_first(root: str) -> None:
    store = open_store()
    store.put_if_absent(f"{root}/a/MANIFEST.json", b"first")
    with pytest.raises(AlreadyExistsError, match=r"a/MANIFEST\.json exists already"):
        store.put_if_absent(f"{root}/a/MANIFEST.json", b"second")
    assert store.read(f"{root}/a/MANIFEST.json") == b"first"
    assert [info.uri for info in store.list(f"{root}/")] == [f"{root}/a/MANIFEST.json"], "no temporary file is left"


def test_of_many_racing_writers_exactly_one_wins(root: str) -> None:
    store, start = open_store(), threading.Barrier(8)

    def put(writer: int) -> bool:
        start.wait()
        try:
            store.put_if_absent(f"{root}/raced", b"%d" % writer)
        except AlreadyExistsError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(put, range(8)))
    assert won.count(True) == 1
    assert store.read(f"{root}/raced") == b"%d" % won.index(True)


def test_what_goes_up_comes_down_with_its_digests(root: str, tmp_path: Path) -> None:
    store, source = open_store(), tmp_path / "source"
    source.write_bytes(b"weights" * 1000)
    sent = store.upload(source, f"{root}/step/shard.distcp")
    assert (sent.key, sent.size, sent.etag) == ("shard.distcp", 7000, "")
    assert sent.sha256 == hashlib.sha256(source.read_bytes()).hexdigest()
    assert store.download(f"{root}/step/shard.distcp", tmp_path / "deep" / "target").sha256 == sent.sha256
    assert (tmp_path / "deep" / "target").read_bytes() == source.read_bytes()


def test_a_range_holds_the_bytes_that_there_are(root: str) -> None:
    store = open_store()
    store.put_if_absent(f"{root}/object", b"0123456789")
    assert store.read_range(f"{root}/object", 3, 4) == b"3456"
    assert store.read_range(f"{root}/object", 8, 5) == b"89"
    assert store.read_range(f"{root}/object", 10, 5) == b""
    assert store.read_range(f"{root}/object", 0, 0) == b""
    with pytest.raises(ObjectNotFoundError, match="does not exist"):
        store.read_range(f"{root}/absent", 0, 1)


def test_a_listing_shows_what_begins_with_the_prefix(root: str) -> None:
    store = open_store()
    for name in ("b/2", "b/1", "bc", "a"):
        store.put_if_absent(f"{root}/{name}", name.encode())
    assert [(info.uri, info.size) for info in store.list(f"{root}/b")] == [
        (f"{root}/b/1", 3),
        (f"{root}/b/2", 3),
        (f"{root}/bc", 2),
    ]
    assert [info.uri for info in store.list(f"{root}/b/")] == [f"{root}/b/1", f"{root}/b/2"]
    assert list(store.list(f"{root}/nowhere/")) == []


def test_relative_paths_are_listed_as_they_were_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = open_store()
    store.put_if_absent("store/x", b"")
    assert [info.uri for info in store.list("store/")] == ["store/x"]
    assert [info.uri for info in store.list("./store/")] == ["./store/x"]
    assert [info.uri for info in store.list("st")] == ["store/x"]


def test_deleting_twice_is_no_error(root: str) -> None:
    store = open_store()
    store.put_if_absent(f"{root}/gone", b"")
    store.delete(f"{root}/gone")
    store.delete(f"{root}/gone")
    with pytest.raises(ObjectNotFoundError, match="gone"):
        store.read(f"{root}/gone")


def test_a_full_path_under_a_file_is_an_error_of_ours(root: str) -> None:
    store = open_store()
    store.put_if_absent(f"{root}/file", b"")
    with pytest.raises(StoreUnavailableError, match="file/below"):
        store.put_if_absent(f"{root}/file/below", b"")


def test_another_scheme_is_refused_by_name() -> None:
    with pytest.raises(InvalidLocationError, match=r"scheme 'gs'; use s3://, file:// or a path"):
        open_store().read("gs://bucket/key")
    with pytest.raises(InvalidLocationError, match="names no object"):
        open_store().read("s3://bucket")


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("s3://no bucket/key", "s3://no bucket/key: this is no name that S3 knows"),
        ("s3://bucket/" + "é" * 513, "has a key of 1026 bytes; the limit is 1024"),
    ],
)
def test_what_no_bucket_can_hold_is_refused_and_not_asked_for(uri: str, message: str) -> None:
    """One wrong path in a data set must not look like a store that is down."""
    store = open_store(endpoint_url="http://127.0.0.1:9", region="us-east-1")

    with pytest.raises(InvalidLocationError, match=message):
        store.read(uri)


def test_an_endpoint_with_credentials_is_refused_and_not_repeated() -> None:
    with pytest.raises(InvalidLocationError) as caught:
        open_store(endpoint_url="https://user:hunter2@store.example")
    assert "hunter2" not in str(caught.value)
    with pytest.raises(InvalidLocationError, match="'store:9000' is no http"):
        open_store(endpoint_url="store:9000")


def test_a_store_travels_to_other_processes(root: str) -> None:
    store = open_store(endpoint_url="http://127.0.0.1:9", region="us-east-1")
    store.put_if_absent(f"{root}/x", b"1")
    assert pickle.loads(pickle.dumps(store)).read(f"{root}/x") == b"1"


def test_errors_know_whether_another_attempt_can_help() -> None:
    assert StoreUnavailableError.exit_code == StoreDeniedError.exit_code == ExitCode.STORE_UNAVAILABLE
    assert ObjectNotFoundError.exit_code == ExitCode.INVALID_CHECKPOINT


@given(st.lists(st.binary(max_size=50), max_size=10))
def test_a_digest_does_not_depend_on_how_the_stream_was_cut(chunks: list[bytes]) -> None:
    digest, checksum, whole = StreamDigest(), StreamChecksum("CRC32"), b"".join(chunks)
    blocks = ObjectDigest(block_bytes=7)
    for chunk in chunks:
        for each in (digest, checksum, blocks):
            each.update(chunk)
    assert digest.size == checksum.size == len(whole)
    assert digest.sha256 == hashlib.sha256(whole).hexdigest()
    assert checksum.value == zlib.crc32(whole)
    assert base64.b64decode(CHECKSUMS["CRC32"].encode(checksum.value)) == zlib.crc32(whole).to_bytes(4, "big")
    pieces = [whole[begin : begin + 7] for begin in range(0, len(whole), 7)] or [b""]
    assert blocks.blocks == tuple(hashlib.sha256(piece).hexdigest() for piece in pieces)


def test_an_object_of_one_block_has_its_own_sha256_a_larger_one_that_of_its_blocks() -> None:
    one, two = ObjectDigest(block_bytes=4), ObjectDigest(block_bytes=4)
    one.update(b"abcd")
    two.update(b"abcdef")
    assert one.sha256 == hashlib.sha256(b"abcd").hexdigest()
    digests = hashlib.sha256(b"abcd").digest() + hashlib.sha256(b"ef").digest()
    assert two.sha256 == hashlib.sha256(digests).hexdigest()
