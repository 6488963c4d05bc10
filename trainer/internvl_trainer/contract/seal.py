"""Documents that know when they were damaged: they carry the digest of their own bytes."""

import hashlib
import re
from typing import Any, Self

from pydantic import Field

from internvl_trainer.contract.base import Contract

_SEAL = re.compile(rb'"seal": "([0-9a-f]{64})"')
_OPEN = b'"seal": ""'


class BrokenSealError(ValueError):
    """The document's bytes are not those that its writer sealed."""


class Sealed(Contract):
    """A document of the object store that nobody may hold a reference to, so nobody else could tell its damage.

    The seal is the SHA-256 of the document's own bytes with the seal left empty. It is in the bytes only: a parsed
    document has none, and documents compare by what they say. Documents without a seal are read as they are.
    """

    seal: str = Field(default="", description="SHA-256 of the document's bytes, with this field left empty")

    def to_bytes(self) -> bytes:
        """The one byte form of this document, sealed."""
        unsealed = super().to_bytes()
        return unsealed.replace(_OPEN, b'"seal": "%b"' % _digest(unsealed), 1)

    @classmethod
    def from_bytes(cls, payload: bytes) -> Self:
        """Parse `to_bytes()` output and compare the seal.

        Raises:
            BrokenSealError: bytes have changed since.
            pydantic.ValidationError: names every field that is missing, unknown or of the wrong type.
        """
        found = _SEAL.search(payload)
        unsealed = payload if found is None else payload.replace(found[0], _OPEN, 1)
        document = super().from_bytes(unsealed)
        if found is not None and _digest(unsealed) != found[1]:
            raise BrokenSealError(f"the bytes of this {cls.__name__} have changed since it was written")
        return document

    def model_post_init(self, context: Any) -> None:
        """Only bytes have a seal."""
        if self.seal:
            raise ValueError("the seal belongs to the document's bytes, and is not given by hand")


def _digest(payload: bytes) -> bytes:
    return hashlib.sha256(payload).hexdigest().encode()
