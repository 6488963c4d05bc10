"""What the pods of a run say: which of them still live, and how the others failed."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Any, NamedTuple

from internvl_operator.api import labels
from internvl_operator.domain.state import AttemptKey, PodFailure
from internvl_operator.jobs.base import JsonObject, MalformedChildError
from internvl_operator.jobs.pod import CONTAINER

_MESSAGE_TAIL = 512
"""Characters of a termination message that are kept: its end, since a traceback says last what went wrong."""


class PodsSeen(NamedTuple):
    """The pods of a run, in the form that `domain.state.Observed` takes: by attempt, and those that index data."""

    live: Mapping[AttemptKey, tuple[str, ...]]
    failures: Mapping[AttemptKey, tuple[PodFailure, ...]]
    live_index: tuple[str, ...] = ()
    index_failures: Mapping[str, tuple[PodFailure, ...]] = MappingProxyType({})
    """By the UID of the index Job."""


def observe_pods(pods: Iterable[JsonObject]) -> PodsSeen:
    """Sort a run's pods into those that live (no container may run any more in the others) and those that failed.

    Raises:
        MalformedChildError: a pod carries neither the labels of an attempt nor that of an index Job.
    """
    found = list(pods)
    live, failures = _sorted_by(lambda pod: attempt_key(pod, "Pod"), (pod for pod in found if not _indexes_data(pod)))
    live_index, index_failures = _sorted_by(_controller, filter(_indexes_data, found))
    names = tuple(sorted(name for names in live_index.values() for name in names))
    return PodsSeen(live, failures, names, index_failures)


def _sorted_by[Key](
    key_of: Callable[[JsonObject], Key], pods: Iterable[JsonObject]
) -> tuple[dict[Key, tuple[str, ...]], dict[Key, tuple[PodFailure, ...]]]:
    live: defaultdict[Key, list[str]] = defaultdict(list)
    failures: defaultdict[Key, list[PodFailure]] = defaultdict(list)
    for pod in pods:
        key = key_of(pod)
        phase = pod.get("status", {}).get("phase", "Pending")
        if phase == "Failed":
            failures[key].append(_failure(pod))
        elif phase != "Succeeded":
            live[key].append(pod["metadata"]["name"])
    return (
        {key: tuple(sorted(names)) for key, names in live.items()},
        {key: tuple(found) for key, found in failures.items()},
    )


def _indexes_data(pod: JsonObject) -> bool:
    return labels.INDEX in pod["metadata"].get("labels", {})


def _controller(pod: JsonObject) -> str:
    """UID of the job that a pod belongs to; empty where it belongs to none any more."""
    owners = pod["metadata"].get("ownerReferences", ())
    return next((owner["uid"] for owner in owners if owner.get("controller")), "")


def attempt_key(child: JsonObject, kind: str) -> AttemptKey:
    """Which attempt a job or pod belongs to, by its labels.

    Raises:
        MalformedChildError: a label is missing or is no number.
    """
    metadata = child["metadata"]
    given = metadata.get("labels", {})
    stage, attempt = given.get(labels.STAGE), given.get(labels.ATTEMPT, "")
    if not stage:
        raise MalformedChildError(kind, metadata["name"], labels.STAGE, stage)
    if not attempt.isdecimal():
        raise MalformedChildError(kind, metadata["name"], labels.ATTEMPT, attempt)
    return AttemptKey(stage, int(attempt))


def timestamp(text: str | None) -> datetime | None:
    """A metav1.Time as an aware datetime."""
    return datetime.fromisoformat(text) if text else None


def _failure(pod: JsonObject) -> PodFailure:
    status = pod["status"]
    ended = _terminated(status)
    # Of an eviction the container knows no more than that it was told to stop.
    teller = status if status.get("reason") == "Evicted" else ended
    disrupted = any(
        condition.get("type") == "DisruptionTarget" and condition.get("status") == "True"
        for condition in status.get("conditions", ())
    )
    return PodFailure(
        pod=pod["metadata"]["name"],
        exit_code=ended.get("exitCode"),
        reason=teller.get("reason") or status.get("reason", ""),
        message=(teller.get("message") or status.get("message", "")).strip()[-_MESSAGE_TAIL:],
        finished_at=timestamp(ended.get("finishedAt")),
        disrupted=disrupted,
    )


def _terminated(status: JsonObject) -> dict[str, Any]:
    for container in status.get("containerStatuses", ()):
        if container.get("name") == CONTAINER:
            terminated: dict[str, Any] = container.get("state", {}).get("terminated") or {}
            return terminated
    return {}
