"""What all API models share: camelCase on the wire, frozen in memory, and the scalar types of the Kubernetes API."""

from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue, PlainSerializer, WithJsonSchema
from pydantic.alias_generators import to_camel

GROUP = "training.internvl.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "InternVLTraining"
PLURAL = "internvltrainings"


class ApiModel(BaseModel):
    """A part of the spec. Unknown fields are rejected, so that a typo fails when the CR is applied, not later."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", alias_generator=to_camel, validate_by_name=True, validate_by_alias=True
    )

    def to_dict(self) -> dict[str, Any]:
        """The wire form: camelCase, JSON types only, fields without a value left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


class StatusModel(ApiModel):
    """A part of the status. Unknown fields are dropped: an older operator must be able to read a newer one's status."""

    model_config = ConfigDict(extra="ignore")


def _rfc3339(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def whole_second(moment: datetime) -> datetime:
    """`moment` in UTC without its fraction: what metav1.Time keeps, so that a status survives its round trip."""
    return moment.astimezone(UTC).replace(microsecond=0)


Timestamp = Annotated[
    datetime,
    PlainSerializer(_rfc3339, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]
"""metav1.Time: UTC, whole seconds."""

Decimal = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]+)?$", max_length=24)]
"""A decimal number as a string: the API conventions forbid floats, which not all clients round the same way."""

StageName = Annotated[str, Field(pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?$", max_length=16)]
ObjectUri = Annotated[str, Field(pattern=r"^(s3|file)://.+", max_length=1024)]
SecretName = Annotated[str, Field(min_length=1, max_length=253)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", max_length=64)]
ReasonName = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9]*$", max_length=64)]
"""A `Reason`; any word when read back, since a newer operator may know reasons that this one does not."""
Message = Annotated[str, Field(max_length=1024)]
"""Text for people, cut to this length before it is written."""


def keyed_by(*keys: str) -> dict[str, JsonValue]:
    """Schema extension of a list whose items are told apart by the fields `keys`: server-side apply merges by them."""
    return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": list(keys)}


UNIQUE: dict[str, JsonValue] = {"x-kubernetes-list-type": "set"}
"""Schema extension of a list of scalars in which no value may occur twice."""


def cut(text: str, limit: int = 1024) -> str:
    """`text`, shortened with an ellipsis where it is longer than a bounded status field takes."""
    return text if len(text) <= limit else text[: limit - 1] + "…"
