"""The common base of every document that crosses the border between operator, trainer and object store."""

from enum import StrEnum
from typing import Self

from pydantic import BaseModel, ConfigDict


class Contract(BaseModel):
    """A frozen document that rejects unknown fields, so that a version skew fails loudly and at once."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def to_bytes(self) -> bytes:
        """The one byte form of this document (UTF-8 JSON, fields in declaration order): digests are taken of it."""
        return self.model_dump_json(indent=1).encode()

    @classmethod
    def from_bytes(cls, payload: bytes) -> Self:
        """Parse `to_bytes()` output.

        Raises:
            pydantic.ValidationError: names every field that is missing, unknown or of the wrong type.
        """
        return cls.model_validate_json(payload)


class Component(StrEnum):
    """The three separately trainable and separately handed-on parts of an InternVL model."""

    VISION = "vision"
    PROJECTOR = "projector"
    LANGUAGE = "language"


class RunIdentity(Contract):
    """Which InternVLTraining a document belongs to. The UID is what counts: a name can be used again."""

    uid: str
    namespace: str
    name: str
