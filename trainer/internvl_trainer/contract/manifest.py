"""The manifests: small JSON objects, written last, that make a checkpoint or a handed-on component exist."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from internvl_trainer.contract.base import Component, Contract, RunIdentity
from internvl_trainer.contract.catalog import ModelGeometry, VisionGeometry
from internvl_trainer.contract.data_position import DataPosition

Sha256 = str
"""64 lower-case hexadecimal digits."""


class ManifestRef(Contract):
    """A manifest's place and the digest of its bytes: enough to find a checkpoint and to know that it is the same."""

    uri: str
    sha256: Sha256 = Field(pattern=r"^[0-9a-f]{64}$")


class StoredObject(Contract):
    """One object of a checkpoint.

    `key` is relative to the manifest's folder. `sha256` is of the whole object, computed by the writer before the
    upload. `etag` is what the store answered to the upload, without quotes; empty for stores that have none.
    """

    key: str
    size: int = Field(ge=0, description="bytes")
    sha256: Sha256 = Field(pattern=r"^[0-9a-f]{64}$")
    crc32: str = Field(default="", description="base64 of the full-object CRC32, as S3's x-amz-checksum-crc32 gives it")
    etag: str = ""


class ParallelLayout(Contract):
    """Sizes of the process grid: world = tensor * pipeline * data."""

    tensor: int = Field(default=1, ge=1)
    pipeline: int = Field(default=1, ge=1)
    data: int = Field(default=1, ge=1)

    @property
    def world(self) -> int:
        """Number of processes."""
        return self.tensor * self.pipeline * self.data


class LineageEntry(Contract):
    """One link of a vision encoder's history, oldest first: which run, stage and step trained it."""

    run: RunIdentity
    stage: str
    step: int
    manifest: ManifestRef


class ImportedWeights(Contract):
    """Where the weights of an imported component came from: a Hugging Face folder."""

    kind: Literal["huggingface"] = "huggingface"
    uri: str
    sha256: Sha256 = Field(
        pattern=r"^[0-9a-f]{64}$", description="of the folder's config.json and of its list of tensors and files"
    )


class DrawnWeights(Contract):
    """What an import has drawn at random, by the rule that training starts by, since no source had it."""

    kind: Literal["drawn"] = "drawn"
    seed: int


class LossSummary(Contract):
    """What people ask first of a finished stage. Losses are the weighted means that the optimizer saw."""

    first: float
    last: float
    steps: int


class Manifest(Contract):
    """A complete checkpoint. It is written by one rank, last, with `If-None-Match: *`; without it nothing exists.

    `components` maps vision, projector, language, optimizer and state to the names of the sharded tensors they own
    in the torch_dist checkpoint; `data` is all that the data path needs to resume.
    """

    format: Literal["internvl-checkpoint/v1"] = "internvl-checkpoint/v1"
    run: RunIdentity
    stage: str
    attempt: int = Field(ge=1)
    step: int = Field(ge=0)
    total_steps: int = Field(
        ge=0, description="steps after which the stage is done: `step` itself where its tokens have ended it"
    )
    tokens: int = Field(ge=0, description="tokens trained on in this stage, padding excluded")
    data: DataPosition
    created_at: datetime
    config_sha256: Sha256
    model: ModelGeometry
    layout: ParallelLayout
    trainable: tuple[Component, ...] = Field(default=(), description="components that the stage's optimizer updates")
    components: dict[str, tuple[str, ...]]
    objects: tuple[StoredObject, ...]
    loss: LossSummary | None = Field(default=None, description="absent where no training has made the checkpoint")
    parents: dict[Component, ManifestRef] = Field(
        default_factory=dict, description="which manifest each component of the stage's start came from"
    )
    vision_lineage: tuple[LineageEntry, ...] = Field(
        default=(), description="which checkpoints trained the vision encoder before this stage, oldest first"
    )

    imported: dict[Component, Annotated[ImportedWeights | DrawnWeights, Field(discriminator="kind")]] = Field(
        default_factory=dict, description="of a checkpoint that an import has made: where each component came from"
    )

    @property
    def is_final(self) -> bool:
        """Whether the stage had no step left when this was written. The operator's gate asks for a final one."""
        return self.step >= self.total_steps

    @property
    def total_bytes(self) -> int:
        """Size of all objects together."""
        return sum(stored.size for stored in self.objects)


class ComponentManifest(Contract):
    """One component of a committed checkpoint, offered to other runs. It points at tensors, it does not copy them."""

    format: Literal["internvl-component/v1"] = "internvl-component/v1"
    component: Component
    source: ManifestRef
    run: RunIdentity
    stage: str
    attempt: int
    step: int
    created_at: datetime
    vision: VisionGeometry
    tensors: tuple[str, ...]
    lineage: tuple[LineageEntry, ...] = Field(
        default=(),
        description="vision only: its whole history, oldest first, with the source itself last where its stage "
        "trained the vision encoder",
    )
