"""The object store against a real S3 server: conditional puts, checksums, ETags, broken streams, secrets."""

import hashlib
import os
import pickle
import socket
import threading
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from hack.cluster.object_store import ObjectStore as S3Server
from internvl_trainer.contract.object_digest import BLOCK_BYTES as BLOCK
from internvl_trainer.contract.object_digest import blocks_of, sha256_of
from internvl_trainer.storage import (
    AlreadyExistsError,
    ObjectChangedError,
    ObjectNotFoundError,
    ObjectStore,
    StoreDeniedError,
    StoreUnavailableError,
    Traits,
    open_store,
)
from internvl_trainer.storage import s3 as s3_module
from internvl_trainer.storage.digest import CHECKSUMS, Algorithm
from internvl_trainer.storage.s3_client import S3Options

pytestmark = pytest.mark.integration
MEBIBYTE = 1024 * 1024


@pytest.fixture
def store(s3_server: S3Server) -> ObjectStore:
    return open_store(endpoint_url=s3_server.endpoint)


@pytest.fixture
def prefix(tmp_path: Path) -> str:
    return f"s3://checkpoints/{tmp_path.name}"


def test_the_second_conditional_put_finds_the_first(store: ObjectStore, prefix: str) -> None:
    store.put_if_absent(f"{prefix}/MANIFEST.json", b"first")
    with pytest.raises(AlreadyExistsError):
        store.put_if_absent(f"{prefix}/MANIFEST.json", b"second")
    assert store.read(f"{prefix}/MANIFEST.json") == b"first"


def test_processes_of_a_node_may_download_the_same_object_to_the_same_place_at_once(
    store: ObjectStore, prefix: str, tmp_path: Path
) -> None:
    payload = os.urandom(MEBIBYTE)
    store.put_if_absent(f"{prefix}/shared", payload)

    def fetch(_: int) -> bytes:
        store.download(f"{prefix}/shared", tmp_path / "copy")
        return (tmp_path / "copy").read_bytes()

    with ThreadPoolExecutor(8) as pool:
        assert all(copy == payload for copy in pool.map(fetch, range(64)))
    assert [path.name for path in tmp_path.iterdir()] == ["copy"], "nothing unfinished is left behind"


def test_of_many_racing_writers_exactly_one_wins(store: ObjectStore, prefix: str) -> None:
    start = threading.Barrier(8)

    def put(writer: int) -> bool:
        start.wait()
        try:
            store.put_if_absent(f"{prefix}/raced", b"%d" % writer)
        except AlreadyExistsError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(put, range(8)))
    assert won.count(True) == 1
    assert store.read(f"{prefix}/raced") == b"%d" % won.index(True)


@pytest.mark.parametrize("size", [0, 1, BLOCK, 2 * BLOCK + 7], ids=["empty", "one", "one-part", "parts"])
def test_what_goes_up_comes_down(store: ObjectStore, prefix: str, tmp_path: Path, size: int) -> None:
    source = tmp_path / "source"
    source.write_bytes(os.urandom(size))
    sent = store.upload(source, f"{prefix}/shard")

    assert sent.key == "shard"
    assert sent.size == size
    assert sent.sha256 == sha256_of(blocks_of(source.read_bytes()))
    if size <= BLOCK:
        assert sent.sha256 == hashlib.sha256(source.read_bytes()).hexdigest()
    assert sent.crc32 == CHECKSUMS["CRC32"].encode(zlib.crc32(source.read_bytes()))
    assert sent.blocks == (blocks_of(source.read_bytes()) if size > BLOCK else ())
    (listed,) = store.list(f"{prefix}/")
    assert (listed.uri, listed.size, listed.etag) == (f"{prefix}/shard", size, sent.etag)
    assert store.download(f"{prefix}/shard", tmp_path / "target") == sent
    assert (tmp_path / "target").read_bytes() == source.read_bytes()


@pytest.mark.parametrize("algorithm", ["CRC64NVME", "CRC32"])
def test_the_server_keeps_the_checksum_of_the_whole_object(
    store: ObjectStore, prefix: str, tmp_path: Path, s3_server: S3Server, algorithm: Algorithm
) -> None:
    source = tmp_path / "source"
    source.write_bytes(os.urandom(BLOCK + MEBIBYTE))
    sent = store.with_traits(Traits(checksum=algorithm)).upload(source, f"{prefix}/shard")
    client = s3_module.S3(S3Options(endpoint_url=s3_server.endpoint)).client
    head = client.head_object(Bucket="checkpoints", Key=f"{tmp_path.name}/shard", ChecksumMode="ENABLED")
    assert (head[f"Checksum{algorithm}"], head["ChecksumType"]) == (getattr(sent, algorithm.lower()), "FULL_OBJECT")
    with pytest.raises(ClientError, match="BadDigest"):
        client.put_object(Bucket="checkpoints", Key="damaged", Body=b"abc", ChecksumCRC32="AAAAAA==")


def test_a_failed_multipart_upload_leaves_no_parts(
    store: ObjectStore, prefix: str, tmp_path: Path, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "source"
    source.write_bytes(bytes(BLOCK + MEBIBYTE))
    backend = s3_module.S3(S3Options(endpoint_url=s3_server.endpoint))
    # The server refuses part 2: its checksum does not fit its bytes.
    honest = CHECKSUMS["CRC32"]
    lying = honest._replace(advance=lambda body, value: honest.advance(body, value) if len(body) == BLOCK else 0)
    monkeypatch.setitem(CHECKSUMS, "CRC32", lying)
    with pytest.raises(StoreUnavailableError, match="BadDigest"):
        backend.upload(source, f"checkpoints/{tmp_path.name}/shard")
    assert "Uploads" not in backend.client.list_multipart_uploads(Bucket="checkpoints", Prefix=tmp_path.name)
    assert list(store.list(prefix)) == []


def test_a_range_holds_the_bytes_that_there_are(store: ObjectStore, prefix: str) -> None:
    store.put_if_absent(f"{prefix}/object", b"0123456789")
    assert store.read_range(f"{prefix}/object", 3, 4) == b"3456"
    assert store.read_range(f"{prefix}/object", 8, 5) == b"89"
    assert store.read_range(f"{prefix}/object", 10, 5) == b""
    assert store.read_range(f"{prefix}/object", 0, 0) == b""
    with pytest.raises(ObjectNotFoundError):
        store.read_range(f"{prefix}/absent", 0, 1)


def test_a_range_of_an_object_that_was_replaced_is_refused(store: ObjectStore, prefix: str, tmp_path: Path) -> None:
    store.put_if_absent(f"{prefix}/object", b"0123456789")
    (before,) = store.list(f"{prefix}/")
    assert store.read_range(f"{prefix}/object", 3, 4, etag=before.etag) == b"3456"

    (tmp_path / "other").write_bytes(b"abcdefghij")
    store.upload(tmp_path / "other", f"{prefix}/object")

    with pytest.raises(ObjectChangedError, match="was replaced while it was in use"):
        store.read_range(f"{prefix}/object", 3, 4, etag=before.etag)
    assert store.read_range(f"{prefix}/object", 3, 4) == b"defg"


def test_deleting_twice_is_no_error(store: ObjectStore, prefix: str) -> None:
    store.put_if_absent(f"{prefix}/gone", b"")
    store.delete(f"{prefix}/gone")
    store.delete(f"{prefix}/gone")
    with pytest.raises(ObjectNotFoundError, match="NoSuchKey"):
        store.read(f"{prefix}/gone")


def test_a_listing_goes_on_beyond_one_page(store: ObjectStore, prefix: str, tmp_path: Path) -> None:
    source = tmp_path / "empty"
    source.touch()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda index: store.upload(source, f"{prefix}/{index:04d}"), range(1003)))
    assert [info.uri for info in store.list(f"{prefix}/")] == [f"{prefix}/{index:04d}" for index in range(1003)]


def test_other_processes_make_their_own_connections(store: ObjectStore, prefix: str) -> None:
    store.put_if_absent(f"{prefix}/shared", b"seen by all")
    copy = pickle.loads(pickle.dumps(store))
    assert copy.read(f"{prefix}/shared") == b"seen by all"
    with get_context("fork").Pool(2) as pool:
        assert pool.map(store.read, [f"{prefix}/shared"] * 4) == [b"seen by all"] * 4


def test_wrong_credentials_are_refused_without_being_told(
    s3_server: S3Server, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret-that-is-wrong")
    with pytest.raises(StoreDeniedError) as caught:
        open_store(endpoint_url=s3_server.endpoint).read(f"{prefix}/any")
    told = repr(caught.value) + repr(caught.value.__cause__)
    assert "a-secret-that-is-wrong" not in told
    assert s3_server.access_key not in told
    assert caught.value.__suppress_context__, "a traceback must not print the library's own words"


def test_a_silent_store_is_unavailable(prefix: str, s3_server: S3Server) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{closed.getsockname()[1]}"
        with pytest.raises(StoreUnavailableError, match="EndpointConnectionError"):
            open_store(endpoint_url=endpoint, region="us-east-1").read(f"{prefix}/any")


@pytest.fixture
def flaky(s3_server: S3Server) -> Iterator[str]:
    """An endpoint in front of the server that cuts each of the first three answers after 3 MiB."""
    with _CuttingProxy(s3_server.endpoint, cuts=3, after=3 * MEBIBYTE) as proxy:
        yield proxy.endpoint


def test_a_broken_download_goes_on_where_it_broke(store: ObjectStore, flaky: str, prefix: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(os.urandom(14 * MEBIBYTE))
    sent = store.upload(source, f"{prefix}/shard")
    received = open_store(endpoint_url=flaky).download(f"{prefix}/shard", tmp_path / "target")
    assert received == sent
    assert (tmp_path / "target").read_bytes() == source.read_bytes()
    assert not (tmp_path / "target.part").exists()


class _CuttingProxy:
    """Forwards TCP connections, and closes the first `cuts` of them when `after` bytes came back."""

    def __init__(self, endpoint: str, *, cuts: int, after: int) -> None:
        host, port = endpoint.removeprefix("http://").split(":")
        self._target, self._cuts, self._after = (host, int(port)), cuts, after
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> "_CuttingProxy":
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            limit = self._after if self._cuts > 0 else None
            self._cuts -= 1
            server = socket.create_connection(self._target)
            threading.Thread(target=_pump, args=(client, server, None), daemon=True).start()
            threading.Thread(target=_pump, args=(server, client, limit), daemon=True).start()


def _pump(source: socket.socket, sink: socket.socket, limit: int | None) -> None:
    passed = 0
    # The other direction may have closed both ends.
    with suppress(OSError):
        while (limit is None or passed < limit) and (chunk := source.recv(64 * 1024)):
            sink.sendall(chunk)
            passed += len(chunk)
    for end in (source, sink):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        end.close()
