"""Reading object stores: what goes wrong is told by type, and credentials are never told at all."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    NoCredentialsError,
    SSLError,
)

from internvl_operator.adapters.object_store import (
    Credentials,
    ObjectInfo,
    ObjectNotFoundError,
    ObjectStores,
    ObjectTooLargeError,
    StoreAccessError,
    StoreAddress,
    StoreError,
    StoreUnavailableError,
    _typed_errors,
)
from internvl_operator.config import GateSettings

pytestmark = pytest.mark.unit

HERE = StoreAddress()


@pytest.fixture
def stores() -> Iterator[ObjectStores]:
    stores = ObjectStores(GateSettings(threads=1))
    yield stores
    stores.close()


def test_credentials_have_no_printed_form() -> None:
    credentials = Credentials.from_secret({"AWS_ACCESS_KEY_ID": "AKIA-key", "AWS_SECRET_ACCESS_KEY": "s3cr3t"})
    assert credentials is not None
    for text in (repr(credentials), str(StoreAddress(credentials=credentials))):
        assert "AKIA-key" not in text
        assert "s3cr3t" not in text


@pytest.mark.parametrize("data", [{}, {"AWS_ACCESS_KEY_ID": "key"}, {"AWS_SECRET_ACCESS_KEY": "secret"}])
def test_half_a_secret_is_no_secret(data: dict[str, str]) -> None:
    assert Credentials.from_secret(data) is None


async def test_a_file_that_does_not_exist(stores: ObjectStores, tmp_path: Path) -> None:
    with pytest.raises(ObjectNotFoundError, match="does not exist"):
        await stores.read(HERE, f"file://{tmp_path}/nothing", limit=10)


async def test_an_object_that_is_too_large_is_not_read(stores: ObjectStores, tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(b"12345678901")
    with pytest.raises(ObjectTooLargeError, match="11 bytes, at most 10"):
        await stores.read(HERE, f"file://{tmp_path}/large", limit=10)


async def test_one_object_is_looked_at_without_a_listing(stores: ObjectStores, tmp_path: Path) -> None:
    (tmp_path / "small").write_bytes(b"123")
    assert await stores.stat(HERE, f"file://{tmp_path}/small") == ObjectInfo(3, "")
    with pytest.raises(ObjectNotFoundError) as caught:
        await stores.stat(HERE, f"file://{tmp_path}/nothing")
    assert caught.value.uri == f"file://{tmp_path}/nothing"


async def test_an_empty_prefix_lists_nothing(stores: ObjectStores, tmp_path: Path) -> None:
    assert await stores.list(HERE, f"file://{tmp_path}/nothing/") == {}


async def test_a_digest_stops_when_the_operator_does(stores: ObjectStores, tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(b"x")
    stores._stopped.set()
    with pytest.raises(StoreUnavailableError, match="is stopping"):
        await stores.sha256(HERE, f"file://{tmp_path}/large")


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (404, "NoSuchKey", ObjectNotFoundError),
        (404, "NoSuchBucket", StoreAccessError),
        (403, "SignatureDoesNotMatch", StoreAccessError),
        (429, "SlowDown", StoreUnavailableError),
        (503, "ServiceUnavailable", StoreUnavailableError),
    ],
)
def test_answers_of_a_store_by_what_can_be_done_about_them(status: int, code: str, expected: type[StoreError]) -> None:
    answer = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    with pytest.raises(expected, match="s3://bucket/key"), _typed_errors("s3://bucket/key"):
        raise ClientError(answer, "GetObject")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "error",
    [
        EndpointConnectionError(endpoint_url="https://user:s3cr3t@s3.corp/bucket/key?X-Amz-Signature=s3cr3t"),
        ConnectTimeoutError(endpoint_url="https://user:s3cr3t@s3.corp/bucket/key?X-Amz-Signature=s3cr3t"),
        SSLError(endpoint_url="https://user:s3cr3t@s3.corp/bucket/key?X-Amz-Signature=s3cr3t", error=OSError("s3cr3t")),
    ],
    ids=lambda error: type(error).__name__,
)
def test_of_a_failed_connection_the_host_is_told_and_nothing_else_of_the_address(error: BotoCoreError) -> None:
    with (
        pytest.raises(StoreError, match=r"s3://bucket/key: .*to s3\.corp\b") as caught,
        _typed_errors("s3://bucket/key"),
    ):
        raise error
    assert "s3cr3t" not in str(caught.value)


def test_without_credentials_the_remedy_is_told() -> None:
    with pytest.raises(StoreAccessError, match=r"storage\.secretRef"), _typed_errors("s3://bucket/key"):
        raise NoCredentialsError
