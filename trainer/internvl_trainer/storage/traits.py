"""What a store can do that not every store can, and how commits and uploads use it."""

from typing import NamedTuple

from internvl_trainer.storage.digest import Algorithm


class Traits(NamedTuple):
    """Capabilities of a store, by a probe or as an S3 store of today is expected to have them."""

    conditional_writes: bool = True
    """Whether `If-None-Match: *` is honoured; without it `put_if_absent` looks first, and is no atomic step."""
    checksum: Algorithm | None = "CRC32"
    """What uploads carry for the store to verify; None: it verifies nothing, or is not to be asked."""

    def __str__(self) -> str:
        commits = (
            "commits by conditional write"
            if self.conditional_writes
            else "IGNORES conditional writes: manifests are written after a look, and compared afterwards"
        )
        return f"{commits}; {f'verifies {self.checksum} of uploads' if self.checksum else 'verifies no checksum'}"
