"""Which object store a run names, and as whom: its spec together with the Secret and the ConfigMap that it names."""

import base64

from internvl_operator.adapters import certificates
from internvl_operator.adapters.kube import CONFIG_MAPS, SECRETS, JsonObject, Kubernetes, Resource
from internvl_operator.adapters.kube_errors import KubernetesError
from internvl_operator.adapters.object_store import (
    ACCESS_KEY,
    SECRET_KEY,
    SESSION_TOKEN,
    Credentials,
    StoreAddress,
)
from internvl_operator.api.spec import CertificatesReference, LocalReference, StorageSpec
from internvl_operator.domain.state import Unavailable


class _UnusableError(Exception):
    """What the spec names is missing or not what it should be; never leaves this module."""


SECRET_KEYS = (ACCESS_KEY, SECRET_KEY, SESSION_TOKEN)
"""What of a Secret counts; it may hold other things, of any kind."""


async def store_address(kube: Kubernetes, namespace: str, storage: StorageSpec) -> StoreAddress | Unavailable:
    """The store's address, or what is missing to reach it."""
    try:
        return StoreAddress(
            storage.endpoint_url,
            storage.region,
            storage.path_style,
            await _credentials(kube, namespace, storage.secret_ref) if storage.secret_ref else None,
            await _certificates(kube, namespace, storage.ca_config_map) if storage.ca_config_map else None,
        )
    except _UnusableError as error:
        return Unavailable(str(error))


async def _credentials(kube: Kubernetes, namespace: str, reference: LocalReference) -> Credentials:
    title = f"Secret {reference.name} of spec.storage.secretRef"
    secret = await _read(kube, SECRETS, namespace, reference.name, title)
    data = secret.get("data") or {}
    try:
        known = {key: base64.b64decode(data[key]).decode() for key in SECRET_KEYS if key in data}
    except ValueError as error:
        raise _UnusableError(
            f"{title} holds something that is no text under one of {', '.join(SECRET_KEYS)}"
        ) from error
    credentials = Credentials.from_secret(known)
    if credentials is None:
        raise _UnusableError(f"{title} lacks {ACCESS_KEY} or {SECRET_KEY}")
    return credentials


async def _certificates(kube: Kubernetes, namespace: str, reference: CertificatesReference) -> str:
    title = f"ConfigMap {reference.name} of spec.storage.caConfigMap"
    data = (await _read(kube, CONFIG_MAPS, namespace, reference.name, title)).get("data") or {}
    pem = str(data.get(reference.key, ""))
    if not pem:
        keys = ", ".join(sorted(data)) or "none"
        raise _UnusableError(
            f"{title} has no key {reference.key}, its keys: {keys}; name the one with the certificates"
        )
    if not certificates.are_readable(pem):
        raise _UnusableError(f"{title} holds no certificate in PEM under {reference.key}")
    return pem


async def _read(kube: Kubernetes, resource: Resource, namespace: str, name: str, title: str) -> JsonObject:
    try:
        found = await kube.get(resource, namespace, name)
    except KubernetesError as error:
        raise _UnusableError(f"{title} cannot be read: {error}") from error
    if found is None:
        raise _UnusableError(f"{title} does not exist; create it in namespace {namespace}")
    return found
