"""An S3 endpoint whose certificate a private authority signs: trusted where it is named, and nowhere else."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from hack.cluster.certs import Authority
from hack.cluster.object_store import ObjectStore as S3Server
from internvl_operator.adapters.object_store import (
    Credentials,
    ObjectNotFoundError,
    ObjectStores,
    StoreAccessError,
    StoreAddress,
)
from internvl_operator.config import GateSettings
from internvl_trainer.storage import InvalidLocationError, ObjectStore, StoreUnavailableError, open_store
from tests.integration.conftest import BUCKET
from tests.integration.operator import tls
from tests.integration.operator.conftest import Make
from tests.integration.operator.harness import Cluster, OperatorProcess, commit_checkpoint, eventually

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority("corp")


@pytest.fixture(scope="module")
def endpoint(s3_server: S3Server, authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with tls.in_front_of(s3_server.endpoint, authority, tmp_path_factory.mktemp("tls")) as url:
        yield url


@pytest.fixture
def ca_file(authority: Authority, tmp_path: Path) -> str:
    path = tmp_path / "corp-ca.crt"
    path.write_bytes(authority.pair.certificate)
    return str(path)


@pytest.fixture
def prefix(store: ObjectStore) -> str:
    """A folder with one object."""
    prefix = f"s3://{BUCKET}/{uuid4().hex}/"
    store.put(f"{prefix}object", b"payload")
    return prefix


@pytest.fixture
def stores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStores]:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    stores = ObjectStores(GateSettings(threads=2))
    yield stores
    stores.close()
    assert list((tmp_path / "tmp").iterdir()) == [], "the certificates' files are gone"


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pauses between attempts that all end alike."""
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda self, context: 0)


def address(s3_server: S3Server, endpoint: str, certificates: bytes | None = None) -> StoreAddress:
    return StoreAddress(
        endpoint_url=endpoint,
        credentials=Credentials(s3_server.access_key, s3_server.secret_key),
        ca_certificates=certificates.decode() if certificates else None,
    )


async def test_the_operator_reads_an_endpoint_whose_authority_the_run_names(
    s3_server: S3Server, endpoint: str, authority: Authority, stores: ObjectStores, prefix: str
) -> None:
    there = address(s3_server, endpoint, authority.pair.certificate)
    assert await stores.read(there, f"{prefix}object", limit=10) == b"payload"
    listed = await stores.list(there, prefix)
    assert listed["object"].size == 7
    assert await stores.stat(there, f"{prefix}object") == listed["object"], "a look shows what a listing does"
    with pytest.raises(ObjectNotFoundError, match=f"{prefix}nothing does not exist"):
        await stores.stat(there, f"{prefix}nothing")


@pytest.mark.usefixtures("impatient")
async def test_without_it_or_with_another_the_operator_says_what_to_name(
    s3_server: S3Server, endpoint: str, stores: ObjectStores, prefix: str
) -> None:
    for certificates in (None, Authority("somebody else").pair.certificate):
        with pytest.raises(StoreAccessError) as caught:
            await stores.read(address(s3_server, endpoint, certificates), f"{prefix}object", limit=10)
        said = str(caught.value)
        assert f"the connection to {endpoint.removeprefix('https://')} cannot be trusted" in said
        assert "unable to get local issuer certificate" in said
        assert "storage.caConfigMap" in said
        assert s3_server.access_key not in said
        assert s3_server.secret_key not in said


@pytest.mark.usefixtures("s3_server")
def test_the_trainer_reads_and_writes_there_with_the_mounted_file(endpoint: str, ca_file: str, prefix: str) -> None:
    private = open_store(endpoint_url=endpoint, ca_file=ca_file)
    assert private.read(f"{prefix}object") == b"payload"
    private.put_if_absent(f"{prefix}another", b"more")
    assert [info.uri for info in private.list(prefix)] == [f"{prefix}another", f"{prefix}object"]


@pytest.mark.usefixtures("impatient")
def test_without_the_file_the_trainer_says_what_is_wrong_and_where(
    s3_server: S3Server, endpoint: str, prefix: str
) -> None:
    with pytest.raises(StoreUnavailableError, match=endpoint.removeprefix("https://")) as caught:
        open_store(endpoint_url=endpoint).read(f"{prefix}object")
    assert "no TLS connection" in str(caught.value)
    assert "storage.caConfigMap" in str(caught.value)
    assert s3_server.access_key not in str(caught.value)
    with pytest.raises(InvalidLocationError, match="CA file /nowhere of the S3 endpoint does not exist; mount it"):
        open_store(endpoint_url=endpoint, ca_file="/nowhere")


def test_a_missing_authority_is_named_and_the_run_goes_on_once_it_is_there(
    cluster: Cluster, operator: OperatorProcess, make_training: Make, store: ObjectStore, tmp_path: Path,
    endpoint: str, authority: Authority,
) -> None:  # fmt: skip
    training = make_training()
    training["spec"]["storage"] |= {"endpointUrl": endpoint, "caConfigMap": {"name": "corp-ca"}}
    cluster.submit(training)
    cluster.job("run-warmup-a1")
    assert cluster.config("run-warmup-a1").storage.ca_file == "/etc/internvl-storage-ca/ca.crt"
    commit_checkpoint(cluster.config("run-warmup-a1"), store, tmp_path)
    cluster.settle_job("run-warmup-a1", "Succeeded")
    eventually("it is told", lambda: cluster.reason("run", "Progressing") == "StoreUnavailable")
    assert "ConfigMap corp-ca" in cluster.condition("run", "Progressing")["message"]

    cluster.apply(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "corp-ca", "namespace": cluster.namespace},
            "data": {"ca.crt": authority.pair.certificate.decode()},
        }
    )
    cluster.job("run-full-a1")
