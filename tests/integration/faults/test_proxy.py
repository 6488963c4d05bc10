"""The fault proxy before a real S3 server: without faults nobody notices it, with them everybody does as planned."""

import http.client
import io
import os
import random
import re
import socket
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from zlib import crc32

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, ConnectionClosedError, IncompleteReadError, ResponseStreamingError

from hack.cluster.object_store import ObjectStore as S3Server
from tests.integration.faults.plan import (
    Call,
    Fault,
    FaultPlan,
    Operation,
    Plan,
    ScriptedPlan,
    Strike,
    calls,
    classify,
    fits,
)
from tests.integration.faults.proxy import FaultProxy

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

pytestmark = pytest.mark.integration
BUCKET = "checkpoints"
MEBIBYTE = 1024 * 1024
PART = 5 * MEBIBYTE
CRC32 = b64encode(crc32(b"0123456789").to_bytes(4)).decode()

type Proxied = Callable[[Plan], AbstractContextManager[FaultProxy]]


def client_of(endpoint: str) -> "S3Client":
    """A client that takes every answer for the last word."""
    return boto3.session.Session().client(
        "s3",
        endpoint_url=endpoint,
        config=Config(
            connect_timeout=2,
            read_timeout=10,
            retries={"total_max_attempts": 1},
            s3={"addressing_style": "path"},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )


def code(error: pytest.ExceptionInfo[ClientError]) -> tuple[int, str]:
    """The status and the code of an answer."""
    response: Any = error.value.response
    return response["ResponseMetadata"]["HTTPStatusCode"], response["Error"]["Code"]


@pytest.fixture(scope="module")
def direct(s3_server: S3Server) -> "S3Client":
    return client_of(s3_server.endpoint)


@pytest.fixture(scope="module")
def clear(s3_server: S3Server) -> Iterator[FaultProxy]:
    """A proxy without faults."""
    with FaultProxy(s3_server.endpoint, ScriptedPlan()) as proxy:
        yield proxy


@pytest.fixture
def proxied(s3_server: S3Server) -> Proxied:
    def make(plan: Plan) -> FaultProxy:
        return FaultProxy(s3_server.endpoint, plan, access_key=s3_server.access_key, secret_key=s3_server.secret_key)

    return make


@pytest.fixture
def prefix(tmp_path: Path) -> str:
    return tmp_path.name


def on(operation: Operation, fault: Fault, where: float = 0.5) -> ScriptedPlan:
    """The first call of an operation meets a fault."""
    return ScriptedPlan([(calls(operation), 1, Strike(fault, where))])


# Without faults


def test_objects_pass_unchanged(clear: FaultProxy, direct: "S3Client", prefix: str) -> None:
    client, payload = client_of(clear.endpoint), os.urandom(3 * MEBIBYTE + 1)
    for name, body in {"empty": b"", "one": b"x", "large": payload}.items():
        put = client.put_object(Bucket=BUCKET, Key=f"{prefix}/{name}", Body=body, Metadata={"made-by": "test  1"})
        there, here = (one.get_object(Bucket=BUCKET, Key=f"{prefix}/{name}") for one in (direct, client))
        assert there["Body"].read() == here["Body"].read() == body
        assert there["ETag"] == here["ETag"] == put["ETag"]
        assert there["Metadata"] == here["Metadata"]
        assert client.head_object(Bucket=BUCKET, Key=f"{prefix}/{name}")["ContentLength"] == len(body)
    part = client.get_object(Bucket=BUCKET, Key=f"{prefix}/large", Range="bytes=1000-1999")
    assert part["ResponseMetadata"]["HTTPStatusCode"] == 206
    assert part["Body"].read() == payload[1000:2000]


def test_a_multipart_upload_passes_unchanged(clear: FaultProxy, direct: "S3Client", prefix: str) -> None:
    client, key = client_of(clear.endpoint), f"{prefix}/parts"
    bodies = [os.urandom(PART), os.urandom(PART), b"the end"]
    upload = client.create_multipart_upload(Bucket=BUCKET, Key=key)["UploadId"]
    listed = client.list_multipart_uploads(Bucket=BUCKET, Prefix=prefix)["Uploads"]
    assert [(row["Key"], row["UploadId"]) for row in listed] == [(key, upload)]
    with ThreadPoolExecutor(3) as pool:
        etags = list(pool.map(lambda pair: _part(client, key, upload, *pair), enumerate(bodies, start=1)))
    complete = _complete(client, key, upload, etags)
    there = direct.get_object(Bucket=BUCKET, Key=key)
    assert there["Body"].read() == b"".join(bodies)
    assert there["ETag"] == complete["ETag"]
    sent = {record.part: record.sent for record in clear.log if record.operation is Operation.UPLOAD_PART}
    assert sent == {1: PART, 2: PART, 3: 7}

    left = client.create_multipart_upload(Bucket=BUCKET, Key=key)["UploadId"]
    client.abort_multipart_upload(Bucket=BUCKET, Key=key, UploadId=left)
    assert "Uploads" not in direct.list_multipart_uploads(Bucket=BUCKET, Prefix=prefix)


NAMES = [
    "a space",
    "plus+and&and=",
    "per%cent%2Fslash",
    "quest?ion#hash;semi:colon,comma@at",
    "(quoted)'\"*!~$[]{}|^`",
    "<tag>&amp;",
    "grün-日本-🙂",
    "dots/.../...",
    "equals=1/step-0000000001/__0_0.distcp",
]


@pytest.mark.parametrize("name", NAMES)
def test_keys_with_special_characters_pass_unchanged(
    clear: FaultProxy, direct: "S3Client", prefix: str, name: str
) -> None:
    client, key = client_of(clear.endpoint), f"{prefix}/{name}"
    client.put_object(Bucket=BUCKET, Key=key, Body=name.encode())
    assert direct.get_object(Bucket=BUCKET, Key=key)["Body"].read() == name.encode()
    assert client.get_object(Bucket=BUCKET, Key=key)["Body"].read() == name.encode()
    assert _keys(client, key) == _keys(direct, key) == [key]
    assert [(record.operation.value, record.key, record.status) for record in clear.log[-3:]] == [
        ("PutObject", key, 200),
        ("GetObject", key, 200),
        ("ListObjectsV2", key, 200),
    ]
    client.delete_object(Bucket=BUCKET, Key=key)
    assert _keys(direct, key) == []


def test_answers_have_the_same_headers_as_the_servers_own(
    clear: FaultProxy, direct: "S3Client", s3_server: S3Server, prefix: str
) -> None:
    direct.put_object(Bucket=BUCKET, Key=f"{prefix}/object", Body=b"0123456789", ContentType="text/x-test")
    client = client_of(clear.endpoint)
    host = clear.endpoint.removeprefix("http://")
    urls = [
        ("GET", client.generate_presigned_url("get_object", {"Bucket": BUCKET, "Key": f"{prefix}/object"})),
        ("HEAD", client.generate_presigned_url("head_object", {"Bucket": BUCKET, "Key": f"{prefix}/object"})),
        ("GET", client.generate_presigned_url("get_object", {"Bucket": BUCKET, "Key": f"{prefix}/none"})),
        ("HEAD", client.generate_presigned_url("head_object", {"Bucket": BUCKET, "Key": f"{prefix}/none"})),
        ("GET", client.generate_presigned_url("list_objects_v2", {"Bucket": BUCKET, "Prefix": f"{prefix}/"})),
        ("DELETE", client.generate_presigned_url("delete_object", {"Bucket": BUCKET, "Key": f"{prefix}/none"})),
    ]
    for method, url in urls:
        ours, theirs = (_raw(end, method, url, host) for end in (clear.endpoint, s3_server.endpoint))
        assert ours == theirs, method


def test_the_second_conditional_put_is_refused(clear: FaultProxy, prefix: str) -> None:
    client = client_of(clear.endpoint)
    client.put_object(Bucket=BUCKET, Key=f"{prefix}/taken", Body=b"first", IfNoneMatch="*")
    with pytest.raises(ClientError) as caught:
        client.put_object(Bucket=BUCKET, Key=f"{prefix}/taken", Body=b"second", IfNoneMatch="*")
    assert code(caught) == (412, "PreconditionFailed")
    assert client.get_object(Bucket=BUCKET, Key=f"{prefix}/taken")["Body"].read() == b"first"


def test_lists_and_deletions_pass_unchanged(clear: FaultProxy, direct: "S3Client", prefix: str) -> None:
    client = client_of(clear.endpoint)
    for name in ("a/1", "a/2", "b/1", "c"):
        client.put_object(Bucket=BUCKET, Key=f"{prefix}/{name}", Body=name.encode())
    for options in ({}, {"Delimiter": "/"}, {"MaxKeys": 2}, {"StartAfter": f"{prefix}/a/1"}):
        here, there = (one.list_objects_v2(Bucket=BUCKET, Prefix=f"{prefix}/", **options) for one in (client, direct))
        assert {**here, "ResponseMetadata": None} == {**there, "ResponseMetadata": None}
    client.delete_objects(Bucket=BUCKET, Delete={"Objects": [{"Key": f"{prefix}/a/1"}, {"Key": f"{prefix}/a/2"}]})
    client.delete_object(Bucket=BUCKET, Key=f"{prefix}/c")
    assert _keys(direct, f"{prefix}/") == [f"{prefix}/b/1"]
    assert [record.operation.value for record in clear.log[-2:]] == ["DeleteObjects", "DeleteObject"]


def test_the_sdks_own_checksums_pass(clear: FaultProxy, direct: "S3Client", prefix: str) -> None:
    client = boto3.session.Session().client("s3", endpoint_url=clear.endpoint)
    client.put_object(Bucket=BUCKET, Key=f"{prefix}/file", Body=io.BytesIO(b"streamed" * 1000))
    assert client.get_object(Bucket=BUCKET, Key=f"{prefix}/file")["Body"].read() == b"streamed" * 1000


def test_a_client_that_asks_first_is_told_to_go_on(clear: FaultProxy, direct: "S3Client", prefix: str) -> None:
    url = urlsplit(
        client_of(clear.endpoint).generate_presigned_url("put_object", {"Bucket": BUCKET, "Key": f"{prefix}/asked"})
    )
    with socket.create_connection(("127.0.0.1", url.port or 0), timeout=5) as connection:
        head = f"PUT {url.path}?{url.query} HTTP/1.1\r\nHost: {url.netloc}\r\nContent-Length: 5\r\n"
        connection.sendall(f"{head}Expect: 100-continue\r\n\r\n".encode())
        assert connection.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b"hello")
        assert connection.recv(1000).startswith(b"HTTP/1.1 200 OK\r\n")
    assert direct.get_object(Bucket=BUCKET, Key=f"{prefix}/asked")["Body"].read() == b"hello"


def test_a_connection_is_kept_and_costs_little(clear: FaultProxy, prefix: str) -> None:
    client = client_of(clear.endpoint)
    client.put_object(Bucket=BUCKET, Key=f"{prefix}/small", Body=b"x")
    url = urlsplit(client.generate_presigned_url("get_object", {"Bucket": BUCKET, "Key": f"{prefix}/small"}))
    connection = http.client.HTTPConnection(*_address(clear.endpoint), timeout=5)
    connection.connect()
    kept, started = connection.sock, time.monotonic()
    for _ in range(50):
        connection.request("GET", f"{url.path}?{url.query}")
        assert connection.getresponse().read() == b"x"
        assert connection.sock is kept
    assert time.monotonic() - started < 5
    connection.close()


def test_a_proxy_ends_at_once_also_with_connections_open(s3_server: S3Server) -> None:
    with FaultProxy(s3_server.endpoint, ScriptedPlan()) as proxy:
        client = client_of(proxy.endpoint)
        client.list_objects_v2(Bucket=BUCKET, MaxKeys=1)
        started = time.monotonic()
    assert time.monotonic() - started < 2
    with pytest.raises(ConnectionRefusedError), socket.create_connection(_address(proxy.endpoint), timeout=1):
        pass


def test_a_proxy_ends_at_once_also_with_a_request_under_way(prefix: str, s3_server: S3Server) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, ThreadPoolExecutor(1) as pool:
        with FaultProxy(f"http://127.0.0.1:{silent.getsockname()[1]}", ScriptedPlan()) as proxy:
            pending = pool.submit(client_of(proxy.endpoint).list_objects_v2, Bucket=BUCKET)
            asked, _ = silent.accept()
            started = time.monotonic()
        assert time.monotonic() - started < 2
        assert isinstance(pending.exception(5), ConnectionClosedError)
        asked.close()


def test_a_client_that_leaves_disturbs_nobody(proxied: Proxied, direct: "S3Client", prefix: str) -> None:
    with proxied(on(Operation.PUT_OBJECT, Fault.SLOW)) as proxy:
        client = client_of(proxy.endpoint)
        url = urlsplit(client.generate_presigned_url("put_object", {"Bucket": BUCKET, "Key": f"{prefix}/left"}))
        head = f"PUT {url.path}?{url.query} HTTP/1.1\r\nHost: {url.netloc}\r\nContent-Length: 5\r\n\r\n".encode()
        for sent in (head + b"he", head + b"hello"):
            with socket.create_connection(_address(proxy.endpoint), timeout=5) as connection:
                connection.sendall(sent)
        _wait_for(lambda: len(proxy.log) > 0)
    assert _keys(direct, prefix) == [f"{prefix}/left"]
    assert [(record.sent, record.fault, record.forwarded) for record in proxy.log] == [(5, Fault.SLOW, (200,))]


def test_a_store_that_is_away_is_a_connection_that_ends(prefix: str, s3_server: S3Server) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        with FaultProxy(f"http://127.0.0.1:{closed.getsockname()[1]}", ScriptedPlan()) as proxy:
            with pytest.raises(ConnectionClosedError):
                client_of(proxy.endpoint).put_object(Bucket=BUCKET, Key=f"{prefix}/object", Body=b"x")
            assert [(record.status, record.fault, record.forwarded) for record in proxy.log] == [(None, None, ())]


# Faults of any request


def test_a_dropped_request_never_reaches_the_store(proxied: Proxied, direct: "S3Client", prefix: str) -> None:
    with proxied(on(Operation.PUT_OBJECT, Fault.DROP_REQUEST)) as proxy:
        client = client_of(proxy.endpoint)
        with pytest.raises(ConnectionClosedError):
            client.put_object(Bucket=BUCKET, Key=f"{prefix}/object", Body=os.urandom(MEBIBYTE))
        assert _keys(direct, prefix) == []
        client.put_object(Bucket=BUCKET, Key=f"{prefix}/object", Body=b"again")
    assert [(record.status, record.fault, record.forwarded) for record in proxy.log] == [
        (None, Fault.DROP_REQUEST, ()),
        (200, None, (200,)),
    ]
    assert proxy.faults == {Fault.DROP_REQUEST: 1}


def test_a_dropped_answer_is_of_something_that_happened(proxied: Proxied, direct: "S3Client", prefix: str) -> None:
    with proxied(on(Operation.PUT_OBJECT, Fault.DROP_ANSWER)) as proxy:
        client = client_of(proxy.endpoint)
        with pytest.raises(ConnectionClosedError):
            client.put_object(Bucket=BUCKET, Key=f"{prefix}/object", Body=b"mine", IfNoneMatch="*")
        assert direct.get_object(Bucket=BUCKET, Key=f"{prefix}/object")["Body"].read() == b"mine"
        with pytest.raises(ClientError) as caught:
            client.put_object(Bucket=BUCKET, Key=f"{prefix}/object", Body=b"mine", IfNoneMatch="*")
    assert code(caught) == (412, "PreconditionFailed")
    assert [(record.status, record.forwarded) for record in proxy.log] == [(None, (200,)), (412, (412,))]


@pytest.mark.parametrize(
    ("fault", "answer"),
    [(Fault.UNAVAILABLE, (503, "SlowDown")), (Fault.INTERNAL, (500, "InternalError"))],
    ids=["unavailable", "internal"],
)
def test_a_store_with_troubles_has_done_nothing(
    proxied: Proxied, direct: "S3Client", prefix: str, fault: Fault, answer: tuple[int, str]
) -> None:
    plan = ScriptedPlan([(calls(operation), 1, fault) for operation in (Operation.PUT_OBJECT, Operation.HEAD_OBJECT)])
    with proxied(plan) as proxy:
        client = client_of(proxy.endpoint)
        with pytest.raises(ClientError) as caught:
            client.put_object(Bucket=BUCKET, Key=f"{prefix}/object", Body=b"x")
        assert code(caught) == answer
        with pytest.raises(ClientError) as caught:
            client.head_object(Bucket=BUCKET, Key=f"{prefix}/object")
        assert code(caught) == (answer[0], str(answer[0])), "an answer to HEAD has no body that could name the error"
        assert _keys(client, prefix) == _keys(direct, prefix) == []
    assert plan.pending == []
    assert [record.forwarded for record in proxy.log] == [(), (), (200,)]


def test_a_slow_request_takes_its_time(proxied: Proxied, prefix: str) -> None:
    with proxied(on(Operation.PUT_OBJECT, Fault.SLOW, where=0.99)) as proxy:
        started = time.monotonic()
        client_of(proxy.endpoint).put_object(Bucket=BUCKET, Key=f"{prefix}/object", Body=b"x")
        assert time.monotonic() - started > 0.29
    assert proxy.log[0].status == 200


def test_a_conditional_put_that_comes_twice_finds_itself(proxied: Proxied, direct: "S3Client", prefix: str) -> None:
    with proxied(ScriptedPlan([(calls(Operation.PUT_OBJECT), None, Fault.DUPLICATE)])) as proxy:
        client = client_of(proxy.endpoint)
        client.put_object(Bucket=BUCKET, Key=f"{prefix}/free", Body=b"x")
        with pytest.raises(ClientError) as caught:
            client.put_object(Bucket=BUCKET, Key=f"{prefix}/object", Body=b"mine", IfNoneMatch="*")
    assert code(caught) == (412, "PreconditionFailed")
    assert direct.get_object(Bucket=BUCKET, Key=f"{prefix}/object")["Body"].read() == b"mine"
    assert [record.forwarded for record in proxy.log] == [(200, 200), (200, 412)]


def test_an_upload_that_is_created_twice_leaves_one_behind(proxied: Proxied, direct: "S3Client", prefix: str) -> None:
    with proxied(on(Operation.CREATE_MULTIPART_UPLOAD, Fault.DUPLICATE)) as proxy:
        known = client_of(proxy.endpoint).create_multipart_upload(Bucket=BUCKET, Key=f"{prefix}/object")["UploadId"]
    uploads = [row["UploadId"] for row in direct.list_multipart_uploads(Bucket=BUCKET, Prefix=prefix)["Uploads"]]
    assert len(uploads) == 2
    assert known in uploads
    for upload in uploads:
        direct.abort_multipart_upload(Bucket=BUCKET, Key=f"{prefix}/object", UploadId=upload)


# Faults of writes


def test_the_store_refuses_half_a_body_by_its_checksum(proxied: Proxied, direct: "S3Client", prefix: str) -> None:
    with proxied(on(Operation.PUT_OBJECT, Fault.TRUNCATED_PART)) as proxy:
        with pytest.raises(ClientError) as caught:
            client_of(proxy.endpoint).put_object(
                Bucket=BUCKET, Key=f"{prefix}/object", Body=b"0123456789", ChecksumCRC32=CRC32
            )
        assert code(caught) == (400, "BadDigest")
    assert _keys(direct, prefix) == []
    assert [(record.sent, record.fault) for record in proxy.log] == [(10, Fault.TRUNCATED_PART)]


def test_the_store_takes_half_an_object_for_the_whole(proxied: Proxied, direct: "S3Client", prefix: str) -> None:
    key = f"{prefix}/a key+with%signs"
    with proxied(on(Operation.PUT_OBJECT, Fault.TRUNCATED_STORED)) as proxy:
        answer = client_of(proxy.endpoint).put_object(
            Bucket=BUCKET, Key=key, Body=b"0123456789", ChecksumCRC32=CRC32, IfNoneMatch="*", Metadata={"a": "b"}
        )
    stored = direct.get_object(Bucket=BUCKET, Key=key)
    assert (stored["Body"].read(), stored["ETag"], stored["Metadata"]) == (b"01234", answer["ETag"], {"a": "b"})


def test_the_store_takes_half_a_part_for_the_whole(proxied: Proxied, direct: "S3Client", prefix: str) -> None:
    key, bodies = f"{prefix}/parts", [os.urandom(2 * PART), b"the end"]
    with proxied(on(Operation.UPLOAD_PART, Fault.TRUNCATED_STORED)) as proxy:
        client = client_of(proxy.endpoint)
        upload = client.create_multipart_upload(Bucket=BUCKET, Key=key)["UploadId"]
        etags = [_part(client, key, upload, number, body) for number, body in enumerate(bodies, start=1)]
        _complete(client, key, upload, etags)
    assert direct.get_object(Bucket=BUCKET, Key=key)["Body"].read() == bodies[0][:PART] + bodies[1]


@pytest.mark.parametrize(
    ("fault", "answer"),
    [
        (Fault.PRECONDITION_FAILED, (412, "PreconditionFailed")),
        (Fault.CONFLICT, (409, "ConditionalRequestConflict")),
    ],
    ids=["precondition", "conflict"],
)
def test_only_conditional_puts_meet_faults_of_conditions(
    proxied: Proxied, direct: "S3Client", prefix: str, fault: Fault, answer: tuple[int, str]
) -> None:
    with proxied(FaultPlan(1, {fault: 1})) as proxy:
        client = client_of(proxy.endpoint)
        with pytest.raises(ClientError) as caught:
            client.put_object(Bucket=BUCKET, Key=f"{prefix}/object", Body=b"x", IfNoneMatch="*")
        assert code(caught) == answer
        assert _keys(direct, prefix) == []
        client.put_object(Bucket=BUCKET, Key=f"{prefix}/object", Body=b"x")
    assert [record.fault for record in proxy.log] == [fault, None]


# Faults of reads


def test_a_stale_list_lacks_the_newest_keys(s3_server: S3Server, direct: "S3Client", prefix: str) -> None:
    keys = [f"{prefix}/{name}" for name in ("c & <d>", "a b", "b+1")]
    plan = ScriptedPlan([(calls(Operation.LIST_OBJECTS_V2, prefix), nth, Fault.STALE_LIST) for nth in (1, 3)])
    with FaultProxy(s3_server.endpoint, plan, stale_keys=2) as proxy:
        client = client_of(proxy.endpoint)
        for key in keys:
            client.put_object(Bucket=BUCKET, Key=key, Body=b"x")
        client.put_object(Bucket=BUCKET, Key=keys[0], Body=b"again")
        client.put_object(Bucket=BUCKET, Key=f"elsewhere-{prefix}", Body=b"x")
        stale = client.list_objects_v2(Bucket=BUCKET, Prefix=f"{prefix}/")
        assert [row["Key"] for row in stale["Contents"]] == keys[:1]
        assert stale["KeyCount"] == 1
        assert _keys(client, f"{prefix}/") == sorted(keys)
        for key in keys[1:]:
            client.delete_object(Bucket=BUCKET, Key=key)
        assert _keys(client, f"{prefix}/") == []
    assert [record.fault for record in proxy.log if record.key == f"{prefix}/"] == [
        Fault.STALE_LIST,
        None,
        Fault.STALE_LIST,
    ]


def test_a_corrupt_read_has_one_wrong_bit(proxied: Proxied, direct: "S3Client", prefix: str) -> None:
    direct.put_object(Bucket=BUCKET, Key=f"{prefix}/object", Body=bytes(1000))
    with proxied(FaultPlan(7, {Fault.CORRUPT_READ: 1})) as proxy:
        client = client_of(proxy.endpoint)
        whole = client.get_object(Bucket=BUCKET, Key=f"{prefix}/object")["Body"].read()
        some = client.get_object(Bucket=BUCKET, Key=f"{prefix}/object", Range="bytes=10-19")["Body"].read()
        with pytest.raises(ClientError):
            client.get_object(Bucket=BUCKET, Key=f"{prefix}/none")
    assert (len(whole), int.from_bytes(whole).bit_count()) == (1000, 1)
    assert (len(some), int.from_bytes(some).bit_count()) == (10, 1)
    assert [(record.fault, record.range, record.received > 0) for record in proxy.log] == [
        (Fault.CORRUPT_READ, None, True),
        (Fault.CORRUPT_READ, "bytes=10-19", True),
        (None, None, True),
    ]
    assert direct.get_object(Bucket=BUCKET, Key=f"{prefix}/object")["Body"].read() == bytes(1000)


@pytest.mark.parametrize("size", [10, 2 * MEBIBYTE], ids=["small", "large"])
def test_a_truncated_read_ends_within_the_object(proxied: Proxied, direct: "S3Client", prefix: str, size: int) -> None:
    payload = os.urandom(size)
    direct.put_object(Bucket=BUCKET, Key=f"{prefix}/object", Body=payload)
    with proxied(on(Operation.GET_OBJECT, Fault.TRUNCATED_READ, where=0.3)) as proxy:
        client = client_of(proxy.endpoint)
        answer = client.get_object(Bucket=BUCKET, Key=f"{prefix}/object")
        assert answer["ContentLength"] == size
        received: list[bytes] = []
        with pytest.raises((IncompleteReadError, ResponseStreamingError)):
            received.extend(answer["Body"].iter_chunks(size // 10))
        assert client.get_object(Bucket=BUCKET, Key=f"{prefix}/object")["Body"].read() == payload
    assert b"".join(received) == payload[: int(0.3 * size)]
    assert proxy.log[0].received == int(0.3 * size)


# Plans


def test_a_script_that_cannot_happen_fails_its_test(proxied: Proxied, prefix: str) -> None:
    plan = ScriptedPlan([(calls(key=prefix), 1, Fault.CORRUPT_READ), (calls(key="other"), 1, Fault.SLOW)])
    with pytest.raises(ExceptionGroup) as caught, proxied(plan) as proxy, pytest.raises(ClientError):
        client_of(proxy.endpoint).put_object(Bucket=BUCKET, Key=f"{prefix}/object", Body=b"x")
    assert caught.group_contains(ValueError, match="corrupt-read for a call that it does not fit")
    assert plan.pending == [Fault.CORRUPT_READ, Fault.SLOW]


def test_storing_truncated_needs_keys(s3_server: S3Server) -> None:
    with pytest.raises(ValueError, match="give FaultProxy an access_key and a secret_key"):
        FaultProxy(s3_server.endpoint, on(Operation.PUT_OBJECT, Fault.TRUNCATED_STORED))


def test_what_a_call_meets_does_not_depend_on_what_runs_beside_it() -> None:
    rates = {Fault.DROP_ANSWER: 0.2, Fault.SLOW: 0.2, Fault.TRUNCATED_PART: 0.2}
    ran = [Call(Operation.UPLOAD_PART, "shard", part=1 + turn % 4, size=10) for turn in range(40)]
    ran += [Call(Operation.GET_OBJECT, "shard", range=f"bytes={turn % 3}-9") for turn in range(30)]

    def met(seed: int, order: list[Call]) -> dict[tuple[object, ...], list[Strike | None]]:
        plan = FaultPlan(seed, rates)
        strikes: dict[tuple[object, ...], list[Strike | None]] = {call.identity: [] for call in ran}
        for call in order:
            strikes[call.identity].append(plan.decide(call))
        return strikes

    shuffled = random.Random(1).sample(ran, len(ran))
    assert met(1, ran) == met(1, shuffled)
    assert met(1, ran) != met(2, ran)
    happened = {strike.fault for strikes in met(1, ran).values() for strike in strikes if strike}
    assert happened == set(rates)


def test_a_seeded_plan_keeps_its_rates_and_its_limit() -> None:
    plan = FaultPlan(3, {Fault.INTERNAL: 0.3, Fault.SLOW: 0.1, Fault.STALE_LIST: 0.5})
    strikes = [plan.decide(Call(Operation.GET_OBJECT, f"{index}")) for index in range(2000)]
    assert sum(strike is None for strike in strikes) == pytest.approx(1200, rel=0.1)
    assert sum(strike is not None and strike.fault is Fault.INTERNAL for strike in strikes) == pytest.approx(
        600, rel=0.1
    )

    limited = FaultPlan(3, {Fault.INTERNAL: 1}, limit=2)
    once_more = [limited.decide(Call(Operation.GET_OBJECT, "same")) is not None for _ in range(4)]
    assert once_more == [True, True, False, False]
    with pytest.raises(ValueError, match="add up to 1 at most"):
        FaultPlan(3, {Fault.INTERNAL: 0.6, Fault.SLOW: 0.6})
    assert FaultPlan(3, {Fault.STALE_LIST: 1, Fault.CORRUPT_READ: 1, Fault.CONFLICT: 0}).faults == {
        Fault.STALE_LIST,
        Fault.CORRUPT_READ,
    }


@pytest.mark.parametrize(
    ("method", "target", "operation", "key"),
    [
        ("PUT", "/b/a/c", Operation.PUT_OBJECT, "a/c"),
        ("PUT", "/b/a%2Fc%20d+e?x-id=PutObject", Operation.PUT_OBJECT, "a/c d+e"),
        ("PUT", "/b//a/", Operation.PUT_OBJECT, "/a/"),
        ("PUT", "/b/a?partNumber=3&uploadId=xyz", Operation.UPLOAD_PART, "a"),
        ("PUT", "/b/a?tagging", Operation.OTHER, "a"),
        ("POST", "/b/a?uploads", Operation.CREATE_MULTIPART_UPLOAD, "a"),
        ("POST", "/b/a?uploadId=xyz", Operation.COMPLETE_MULTIPART_UPLOAD, "a"),
        ("DELETE", "/b/a?uploadId=xyz", Operation.ABORT_MULTIPART_UPLOAD, "a"),
        ("GET", "/b/a?uploadId=xyz", Operation.OTHER, "a"),
        ("GET", "/b/a?X-Amz-Signature=1&response-content-type=x", Operation.GET_OBJECT, "a"),
        ("GET", "/b/a?AWSAccessKeyId=1&Signature=2&Expires=3", Operation.GET_OBJECT, "a"),
        ("HEAD", "/b/a", Operation.HEAD_OBJECT, "a"),
        ("DELETE", "/b/a", Operation.DELETE_OBJECT, "a"),
        ("GET", "/b?list-type=2&prefix=a%2Fb%20c", Operation.LIST_OBJECTS_V2, "a/b c"),
        ("GET", "/b/?list-type=2", Operation.LIST_OBJECTS_V2, ""),
        ("GET", "/b?uploads&prefix=a", Operation.LIST_MULTIPART_UPLOADS, "a"),
        ("POST", "/b?delete", Operation.DELETE_OBJECTS, ""),
        ("PUT", "/b", Operation.OTHER, ""),
        ("HEAD", "/b", Operation.OTHER, ""),
        ("GET", "/", Operation.OTHER, ""),
    ],
)
def test_requests_are_told_apart(method: str, target: str, operation: Operation, key: str) -> None:
    assert classify(method, target) == (operation, key)


def test_faults_fit_what_they_are_of() -> None:
    put = Call(Operation.PUT_OBJECT, "a", size=1)
    everywhere = {
        Fault.DROP_REQUEST,
        Fault.DROP_ANSWER,
        Fault.UNAVAILABLE,
        Fault.INTERNAL,
        Fault.SLOW,
        Fault.DUPLICATE,
    }
    assert {fault for fault in Fault if fits(fault, Call(Operation.HEAD_OBJECT, "a"))} == everywhere
    assert {fault for fault in Fault if fits(fault, put)} == everywhere | {Fault.TRUNCATED_PART, Fault.TRUNCATED_STORED}
    assert {fault for fault in Fault if fits(fault, Call(Operation.PUT_OBJECT, "a", conditional=True))} == (
        everywhere | {Fault.PRECONDITION_FAILED, Fault.CONFLICT}
    )


def _part(client: "S3Client", key: str, upload: str, number: int, body: bytes) -> str:
    return client.upload_part(Bucket=BUCKET, Key=key, UploadId=upload, PartNumber=number, Body=body)["ETag"]


def _complete(client: "S3Client", key: str, upload: str, etags: list[str]) -> Any:
    parts = [{"PartNumber": number, "ETag": etag} for number, etag in enumerate(etags, start=1)]
    return client.complete_multipart_upload(
        Bucket=BUCKET,
        Key=key,
        UploadId=upload,
        MultipartUpload={"Parts": parts},  # type: ignore[typeddict-item]
    )


def _keys(client: "S3Client", prefix: str) -> list[str]:
    return [row["Key"] for row in client.list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", ())]


def _address(endpoint: str) -> tuple[str, int]:
    host, port = endpoint.removeprefix("http://").split(":")
    return host, int(port)


def _wait_for(condition: Callable[[], bool], seconds: float = 5) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"nothing happened within {seconds} s"
        time.sleep(0.02)


def _raw(endpoint: str, method: str, url: str, host: str) -> tuple[int, str, list[tuple[str, str]], bytes]:
    """An answer as it is on the wire, but for what differs between any two answers."""
    connection = http.client.HTTPConnection(*_address(endpoint), timeout=5)
    connection.request(method, url.removeprefix(f"http://{host}"), headers={"Host": host})
    answer = connection.getresponse()
    body = re.sub(rb"<RequestId>.*?</RequestId>", b"", answer.read())
    names = ("date", "x-amz-request-id", "content-length" if answer.status >= 400 else "")
    connection.close()
    kept = [(name, value) for name, value in answer.getheaders() if name.lower() not in names]
    return answer.status, answer.reason, sorted(kept), body
