"""The Kubernetes API as this operator uses it: a few verbs over plain JSON objects, every failure typed.

Children are built as dicts by `jobs/`, so there is nothing to gain from generated models; the official client gives
configuration, authentication and token refresh, and the requests go through its generic call. Every write is
idempotent (fixed names, preconditions on UID or resourceVersion), so every request may be sent again.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple, Self

import aiohttp
from kubernetes.aio import config as kubernetes_config
from kubernetes.aio.client import ApiClient, Configuration
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from internvl_operator.adapters.kube_errors import (
    AccessDeniedError,
    ConflictError,
    InvalidObjectError,
    KubernetesError,
    NotFoundError,
    OwnedByAnotherError,
    UnavailableError,
)

JsonObject = dict[str, Any]

EVENT_NOTE_LIMIT = 1024
"""Bytes that the API allows in an Event's note."""

_TIMEOUT = aiohttp.ClientTimeout(total=30, sock_connect=5)
_RETRY = AsyncRetrying(
    retry=retry_if_exception_type(UnavailableError),
    stop=stop_after_attempt(4),
    wait=wait_random_exponential(multiplier=0.2, max=3),
    reraise=True,
)


class Resource(NamedTuple):
    """A kind of object by its place in the API; the core group's name is empty."""

    group: str
    version: str
    plural: str

    def path(self, namespace: str | None, name: str | None = None, subresource: str | None = None) -> str:
        """The URL path of a collection, an object or an object's subresource."""
        root = f"/apis/{self.group}" if self.group else "/api"
        scope = f"/namespaces/{namespace}" if namespace else ""
        tail = "".join(f"/{part}" for part in (name, subresource) if part)
        return f"{root}/{self.version}{scope}/{self.plural}{tail}"


CONFIG_MAPS = Resource("", "v1", "configmaps")
PODS = Resource("", "v1", "pods")
SECRETS = Resource("", "v1", "secrets")
JOBS = Resource("batch", "v1", "jobs")
PYTORCH_JOBS = Resource("kubeflow.org", "v1", "pytorchjobs")
TRAININGS = Resource("training.internvl.dev", "v1alpha1", "internvltrainings")
EVENTS = Resource("events.k8s.io", "v1", "events")
TOKEN_REVIEWS = Resource("authentication.k8s.io", "v1", "tokenreviews")


class Severity(StrEnum):
    """The two types that an Event can have."""

    NORMAL = "Normal"
    WARNING = "Warning"


class TokenIdentity(NamedTuple):
    """Whom a reviewed token belongs to. Pod name and UID are there for tokens that are bound to a pod."""

    namespace: str
    service_account: str
    pod_name: str
    pod_uid: str


class Kubernetes:
    """One connection pool to one API server. Use as an async context manager, or `close()` it.

    All methods raise the errors of `kube_errors`: `UnavailableError` after retries where waiting may help.
    """

    def __init__(self, client: ApiClient, *, reporter: str, instance: str) -> None:
        """`reporter` and `instance` name this controller and this process in Events."""
        # The generated client is typed in part only, and its types are not of this module's concern.
        self._client: Any = client
        self._reporter = reporter
        self._instance = instance

    @classmethod
    async def connect(cls, *, reporter: str, instance: str) -> Self:
        """Connect as KUBECONFIG says or, where it is unset, as the pod's service account or the default kubeconfig.

        Raises:
            kubernetes.aio.config.ConfigException: there is neither.
        """
        return cls(ApiClient(await load_configuration()), reporter=reporter, instance=instance)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def get(self, resource: Resource, namespace: str | None, name: str) -> JsonObject | None:
        """One object, or None where it does not exist."""
        try:
            return await self._send("GET", resource.path(namespace, name))
        except NotFoundError:
            return None

    async def list(
        self, resource: Resource, namespace: str | None, labels: Mapping[str, str] | None = None
    ) -> list[JsonObject]:
        """All objects of a kind that carry all `labels`, as they are now (not from a cache)."""
        query = [("labelSelector", ",".join(f"{key}={value}" for key, value in (labels or {}).items()))]
        answer = await self._send("GET", resource.path(namespace), query=query if labels else [])
        return list(answer["items"])

    async def may_list(self, resource: Resource, namespace: str | None) -> None:
        """Ask for one object of a kind, to learn whether we may.

        Raises:
            AccessDeniedError: we may not.
        """
        await self._send("GET", resource.path(namespace), query=[("limit", "1")])

    async def create(self, resource: Resource, body: JsonObject) -> JsonObject:
        """Create an object with an owner; one of the same name and the same owner counts as created.

        Returns:
            the object as the API server has it now.

        Raises:
            OwnedByAnotherError: the name is taken by somebody else's object.
            NotFoundError: the kind is not installed, or the namespace does not exist.
        """
        namespace, name = body["metadata"]["namespace"], body["metadata"]["name"]
        try:
            return await self._send("POST", resource.path(namespace), body=body)
        except ConflictError:
            existing = await self.get(resource, namespace, name)
            if existing is None:
                raise
            if not owners(existing) & owners(body):
                raise OwnedByAnotherError(resource.plural, namespace, name, owners(existing)) from None
            return existing

    async def delete(self, resource: Resource, namespace: str, name: str, *, uid: str | None = None) -> None:
        """Begin to delete an object and, in the background, what it owns. One that is gone counts as deleted.

        Args:
            uid: delete only this very object; a newer one of the same name is left alone.
        """
        options: JsonObject = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"}
        if uid:
            options["preconditions"] = {"uid": uid}
        try:
            await self._send("DELETE", resource.path(namespace, name), body=options)
        except NotFoundError:
            return
        except ConflictError:
            # The UID differs: what was to be deleted is gone.
            if not uid:
                raise

    async def replace_status(self, resource: Resource, seen: JsonObject, status: JsonObject) -> JsonObject:
        """Replace the whole status of an object, unless somebody has changed the object since it was `seen`.

        Raises:
            ConflictError: the object has changed; look again and decide anew.
        """
        metadata = seen["metadata"]
        path = resource.path(metadata["namespace"], metadata["name"], "status")
        return await self._send("PUT", path, body=seen | {"status": status})

    async def post_event(
        self, regarding: JsonObject, *, severity: Severity, reason: str, action: str, note: str, at: datetime
    ) -> None:
        """Attach an Event to an object. The same reason and note on the same object make one Event, not many."""
        metadata = regarding["metadata"]
        digest = hashlib.sha256(f"{metadata['uid']} {reason} {note}".encode()).hexdigest()[:16]
        reference = {key: regarding[key] for key in ("apiVersion", "kind")}
        reference |= {key: metadata[key] for key in ("namespace", "name", "uid")}
        body = {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"namespace": metadata["namespace"], "name": f"{metadata['name']}.{digest}"},
            "eventTime": at.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "reportingController": self._reporter,
            "reportingInstance": self._instance,
            "regarding": reference,
            "type": severity.value,
            "reason": reason,
            "action": action,
            "note": _cut(note, EVENT_NOTE_LIMIT),
        }
        try:
            await self._send("POST", EVENTS.path(metadata["namespace"]), body=body)
        except ConflictError:
            return

    async def review_token(self, token: str, audience: str) -> TokenIdentity | None:
        """Whom a service account token that was made for `audience` belongs to; None where it is not valid."""
        review = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": [audience]},
        }
        status = (await self._send("POST", TOKEN_REVIEWS.path(None), body=review)).get("status", {})
        if not status.get("authenticated") or audience not in status.get("audiences", []):
            return None
        return _service_account(status.get("user", {}))

    async def serves(self, resource: Resource) -> bool:
        """Whether the API server knows this kind."""
        try:
            answer = await self._send("GET", f"/apis/{resource.group}/{resource.version}")
        except NotFoundError:
            return False
        return any(item["name"] == resource.plural for item in answer["resources"])

    async def _send(
        self, verb: str, path: str, *, query: Sequence[tuple[str, str]] = (), body: JsonObject | None = None
    ) -> JsonObject:
        return await _RETRY.copy()(self._send_once, verb, path, query, body)

    async def _send_once(
        self, verb: str, path: str, query: Sequence[tuple[str, str]], body: JsonObject | None
    ) -> JsonObject:
        headers = {"Accept": "application/json", "Content-Type": "application/json"}
        request = await self._client.param_serialize(
            verb, path, query_params=list(query), header_params=headers, body=body, auth_settings=["BearerToken"]
        )
        try:
            response = await self._client.call_api(*request, _request_timeout=_TIMEOUT)
            payload = await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise UnavailableError(f"{verb} {path}", 0, type(error).__name__, str(error)) from error
        if response.status >= 400:
            raise _error(f"{verb} {path}", response.status, payload)
        answer = json.loads(payload)
        if not isinstance(answer, dict):
            raise UnavailableError(f"{verb} {path}", response.status, "NoObject", "the answer is no JSON object")
        return answer


async def load_configuration() -> Configuration:
    """Where the API server is and who we are to it; tokens in files are read anew as they are rotated."""
    configuration = Configuration()
    loader: Any = kubernetes_config
    if "KUBECONFIG" not in os.environ and "KUBERNETES_SERVICE_HOST" in os.environ:
        loader.load_incluster_config(client_configuration=configuration)
    else:
        await loader.load_kube_config(client_configuration=configuration)
    return configuration


def owners(body: JsonObject) -> set[str]:
    """UIDs of the objects that own this one."""
    return {reference["uid"] for reference in body["metadata"].get("ownerReferences", ())}


def _cut(text: str, limit: int) -> str:
    encoded = text.encode()
    if len(encoded) <= limit:
        return text
    ellipsis = "…"
    return encoded[: limit - len(ellipsis.encode())].decode(errors="ignore") + ellipsis


def _service_account(user: JsonObject) -> TokenIdentity | None:
    match user.get("username", "").split(":"):
        case ["system", "serviceaccount", namespace, name]:
            extra = user.get("extra", {})
            pod_name, pod_uid = (
                next(iter(extra.get(f"authentication.kubernetes.io/{key}", ())), "") for key in ("pod-name", "pod-uid")
            )
            return TokenIdentity(namespace, name, pod_name, pod_uid)
    return None


def _error(operation: str, code: int, payload: bytes) -> KubernetesError:
    try:
        status = json.loads(payload)
        reason, message = str(status.get("reason", "")), str(status.get("message", ""))
    except (ValueError, AttributeError):
        reason, message = "", payload[:200].decode(errors="replace")
    kinds: dict[int, type[KubernetesError]] = {
        400: InvalidObjectError,
        401: AccessDeniedError,
        403: AccessDeniedError,
        404: NotFoundError,
        409: ConflictError,
        422: InvalidObjectError,
    }
    # 408, 410, 429 and all of 5xx pass by themselves.
    return kinds.get(code, UnavailableError)(operation, code, reason, message)
