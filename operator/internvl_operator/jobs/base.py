"""The interface between decisions and workloads: one implementation per job kind, pure on both sides.

Adding a kind means adding a file with an object that has these methods; no decision changes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from internvl_operator.domain.actions import CreateJob
from internvl_operator.domain.state import ChildJob

JsonObject = dict[str, Any]


class MalformedChildError(ValueError):
    """A child object lacks what its builder gave it, so nobody can say which attempt it runs."""

    def __init__(self, kind: str, name: str, label: str, value: object) -> None:
        super().__init__(
            f"{kind} {name} has label {label}={value!r}, which is not what the operator gave it; "
            "restore the label or delete the object"
        )


@dataclass(frozen=True, slots=True)
class ProgressEndpoint:
    """Where trainer pods report to."""

    url: str
    """https:// address with its path (`contract.progress.REPORT_PATH`)."""
    ca_certificate: str
    """PEM that the endpoint's certificate is verified with."""
    interval_seconds: float = 5.0


@dataclass(frozen=True, slots=True)
class Platform:
    """What the installation gives to every trainer pod."""

    progress: ProgressEndpoint | None = None
    """None: pods report nothing."""
    pod_template: Mapping[str, Any] = field(default_factory=dict)
    """Overlay below that of the run: metadata and spec of a PodTemplateSpec."""


class JobKind(Protocol):
    """One kind of child workload."""

    api_version: str
    kind: str

    def build(self, create: CreateJob, platform: Platform) -> tuple[JsonObject, ...]:
        """The objects of an attempt in the order of their creation, the job last; each is owned by the run."""
        ...

    def observe(self, job: JsonObject) -> ChildJob:
        """What a job's own status says.

        Raises:
            MalformedChildError: it does not carry the labels that `build` gave it.
        """
        ...
