"""What wakes runs: watch events of InternVLTrainings, and of the jobs and pods that are ours.

Only `on.event` handlers: they keep no state, so kopf writes nothing to any object, adds no finalizer and needs no
right to patch. That an event can be missed or come twice does not matter here, see `runs`.
"""

from collections.abc import Mapping
from typing import Any

import kopf
from kubernetes.aio.client import Configuration

from internvl_operator.adapters.kube import JOBS, PODS, PYTORCH_JOBS, TRAININGS, load_configuration
from internvl_operator.handlers.runs import RunKey, Runs

CHILDREN = (PYTORCH_JOBS, JOBS, PODS)


def build_registry(runs: Runs, *, selector: Mapping[str, str], run_label: str) -> kopf.OperatorRegistry:
    """The handlers of one operator.

    Args:
        runs: whom to wake.
        selector: the labels that all our children carry.
        run_label: the label of a child that names its run.
    """
    registry = kopf.OperatorRegistry()
    changes = _Changes()

    async def training_changed(event: kopf.RawEvent, **_: Any) -> None:
        key = _key(event["object"])
        runs.nudge_followers(key)
        if changes.is_essential(event):
            runs.wake(key)

    async def child_changed(event: kopf.RawEvent, **_: Any) -> None:
        metadata = event["object"]["metadata"]
        if run := metadata.get("labels", {}).get(run_label):
            runs.wake(RunKey(metadata["namespace"], run))

    async def login(**_: Any) -> kopf.ConnectionInfo:
        return await _connection(await load_configuration())

    async def stop(**_: Any) -> None:
        await runs.close()

    kopf.on.login(registry=registry)(login)
    kopf.on.cleanup(registry=registry)(stop)
    kopf.on.event(*TRAININGS, registry=registry)(training_changed)
    for child in CHILDREN:
        # The core group has no name, which kopf spells by leaving it out.
        place = child if child.group else child[1:]
        kopf.on.event(*place, registry=registry, labels=dict(selector), id=f"{child.plural}_changed")(child_changed)
    return registry


def build_settings(selector: Mapping[str, str], *, exit_seconds: float) -> kopf.OperatorSettings:
    """kopf's settings: filtered on the server, no dynamic discovery, nothing of its own written anywhere.

    Args:
        selector: the labels that all our children carry.
        exit_seconds: how long a stop may take before the process is killed.
    """
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.scanning.disabled = True
    settings.process.ultimate_exiting_timeout = exit_seconds
    for child in CHILDREN:
        place = child if child.group else child[1:]
        settings.watching.label_selectors[place] = ",".join(f"{key}={value}" for key, value in selector.items())
    # No handler needs these. Should one ever, its marks must not be kopf's defaults, which other operators share.
    settings.persistence.finalizer = f"{TRAININGS.group}/operator"
    settings.persistence.progress_storage = kopf.AnnotationsProgressStorage(prefix=TRAININGS.group)
    settings.persistence.diffbase_storage = kopf.AnnotationsDiffBaseStorage(prefix=TRAININGS.group)
    return settings


class _Changes:
    """Tells changes of a spec from the echo of our own status writes."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[int, bool]] = {}

    def is_essential(self, event: kopf.RawEvent) -> bool:
        metadata: Mapping[str, Any] = event["object"]["metadata"]
        if event["type"] == "DELETED":
            self._seen.pop(metadata["uid"], None)
            return True
        state = (metadata["generation"], "deletionTimestamp" in metadata)
        known = self._seen.get(metadata["uid"])
        self._seen[metadata["uid"]] = state
        # A listing (no type) also follows a break in the watch, behind which anything may have happened.
        return event["type"] is None or known != state


def _key(body: Mapping[str, Any]) -> RunKey:
    return RunKey(body["metadata"]["namespace"], body["metadata"]["name"])


async def _connection(configuration: Configuration) -> kopf.ConnectionInfo:
    """Our own client's way to the API server, in kopf's terms: both read the same kubeconfig or service account."""
    source: Any = configuration
    scheme, _, token = str(await source.get_api_key_with_prefix("BearerToken") or "").rpartition(" ")
    return kopf.ConnectionInfo(
        server=source.host,
        ca_path=source.ssl_ca_cert,
        insecure=not source.verify_ssl,
        scheme=scheme or None,
        token=token or None,
        certificate_path=source.cert_file,
        private_key_path=source.key_file,
    )
