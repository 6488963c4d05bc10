"""Whom the operator asks for objects, and what it says where the spec names something that is not there."""

import base64
from typing import Any

import pytest

from hack.cluster.certs import Authority
from internvl_operator.adapters.kube import CONFIG_MAPS, SECRETS, JsonObject, Kubernetes, Resource
from internvl_operator.adapters.kube_errors import AccessDeniedError, KubernetesError
from internvl_operator.adapters.object_store import Credentials, StoreAddress
from internvl_operator.api.spec import StorageSpec
from internvl_operator.domain.state import Unavailable
from internvl_operator.handlers.storage import store_address

pytestmark = pytest.mark.unit

PEM = Authority("corp").pair.certificate.decode()
ENDPOINT = {"uri": "s3://bucket/run", "endpointUrl": "https://s3.corp"}
SECRET = {"AWS_ACCESS_KEY_ID": "AKIA-key", "AWS_SECRET_ACCESS_KEY": "s3cr3t"}


class Api(Kubernetes):
    """An API server that knows one Secret and one ConfigMap, or answers with a fault."""

    def __init__(
        self,
        secret: dict[str, str] | None = None,
        ca: dict[str, str] | None = None,
        fault: KubernetesError | None = None,
    ) -> None:
        encoded = {key: base64.b64encode(value.encode()).decode() for key, value in (secret or {}).items()}
        self.objects: dict[tuple[Resource, str], JsonObject] = {}
        if secret is not None:
            self.objects[SECRETS, "s3-cred"] = {"data": encoded}
        if ca is not None:
            self.objects[CONFIG_MAPS, "corp-ca"] = {"data": ca}
        self.fault = fault

    async def get(self, resource: Resource, namespace: str | None, name: str) -> JsonObject | None:
        assert namespace == "team"
        if self.fault:
            raise self.fault
        return self.objects.get((resource, name))


async def address(api: Api, **storage: Any) -> StoreAddress | Unavailable:
    return await store_address(api, "team", StorageSpec.model_validate(ENDPOINT | storage))


async def test_without_references_nobody_is_asked() -> None:
    fault = AccessDeniedError("GET secrets", 403, "Forbidden", "not for you")
    assert await address(Api(fault=fault), pathStyle=False) == StoreAddress("https://s3.corp", None, False)


async def test_the_secret_and_the_certificates_that_a_run_names() -> None:
    api = Api(SECRET, {"ca.crt": PEM})
    found = await address(api, region="eu-1", secretRef={"name": "s3-cred"}, caConfigMap={"name": "corp-ca"})
    assert found == StoreAddress("https://s3.corp", "eu-1", True, Credentials("AKIA-key", "s3cr3t"), PEM)


async def test_what_else_a_secret_holds_does_not_matter_even_where_it_is_no_text() -> None:
    api = Api(SECRET)
    api.objects[SECRETS, "s3-cred"]["data"]["keystore.jks"] = base64.b64encode(b"\xfe\xed\xfe\xed").decode()
    found = await address(api, secretRef={"name": "s3-cred"})
    assert found == StoreAddress("https://s3.corp", None, True, Credentials("AKIA-key", "s3cr3t"))

    api.objects[SECRETS, "s3-cred"]["data"]["AWS_ACCESS_KEY_ID"] = base64.b64encode(b"\xfe").decode()
    found = await address(api, secretRef={"name": "s3-cred"})
    assert isinstance(found, Unavailable)
    assert "holds something that is no text" in found.error


async def test_a_config_map_may_keep_them_under_another_key() -> None:
    found = await address(Api(ca={"bundle.pem": PEM}), caConfigMap={"name": "corp-ca", "key": "bundle.pem"})
    assert isinstance(found, StoreAddress)
    assert found.ca_certificates == PEM


@pytest.mark.parametrize(
    ("api", "words"),
    [
        (Api(), "Secret s3-cred of spec.storage.secretRef does not exist; create it in namespace team"),
        (
            Api({"user": "x"}),
            "Secret s3-cred of spec.storage.secretRef lacks AWS_ACCESS_KEY_ID or AWS_SECRET_ACCESS_KEY",
        ),
        (Api(SECRET), "ConfigMap corp-ca of spec.storage.caConfigMap does not exist; create it in namespace team"),
        (Api(SECRET, {"tls.crt": PEM}), "caConfigMap has no key ca.crt, its keys: tls.crt; name the one with"),
        (Api(SECRET, {}), "caConfigMap has no key ca.crt, its keys: none"),
        (Api(SECRET, {"ca.crt": "see wiki"}), "caConfigMap holds no certificate in PEM under ca.crt"),
        (
            Api(fault=AccessDeniedError("GET secrets", 403, "Forbidden", "no rule")),
            "Secret s3-cred of spec.storage.secretRef cannot be read: GET secrets failed: 403 Forbidden",
        ),
    ],
)
async def test_what_is_missing_is_named_with_its_field_and_no_secret_is_told(api: Api, words: str) -> None:
    found = await address(api, secretRef={"name": "s3-cred"}, caConfigMap={"name": "corp-ca"})
    assert isinstance(found, Unavailable)
    assert words in found.error
    assert "s3cr3t" not in found.error
