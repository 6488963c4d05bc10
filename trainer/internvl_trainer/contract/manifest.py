"""The manifests: small JSON objects, written last, that make a checkpoint or a handed-on component exist."""

import hashlib
from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import Field

from internvl_trainer.contract.base import Component, Contract, RunIdentity
from internvl_trainer.contract.catalog import ModelGeometry, VisionGeometry
from internvl_trainer.contract.data_position import DataPosition
from internvl_trainer.contract.seal import Sealed

Sha256 = str
"""64 lower-case hexadecimal digits."""


class ManifestRef(Contract):
    """A manifest's place and the digest of its bytes: enough to find a checkpoint and to know that it is the same."""

    uri: str
    sha256: Sha256 = Field(pattern=r"^[0-9a-f]{64}$")

    @classmethod
    def to(cls, uri: str, payload: bytes) -> Self:
        """A reference to the manifest with these bytes at `uri`."""
        return cls(uri=uri, sha256=hashlib.sha256(payload).hexdigest())


class StoredObject(Contract):
    """One object of a checkpoint.

    `key` is relative to the manifest's folder. `sha256` is computed by the writer in the pass that uploads it: of the
    object's bytes, or, where it has several blocks, of their digests (`object_digest.sha256_of`). `etag` is what the
    store answered to the upload, without quotes; empty for stores that have none. One of the two CRCs is there: the one
    that the store has verified, or the better one where it verifies none.
    """

    key: str
    size: int = Field(ge=0, description="bytes")
    sha256: Sha256 = Field(pattern=r"^[0-9a-f]{64}$")
    crc64nvme: str = Field(
        default="", description="base64 of the full-object CRC, as x-amz-checksum-crc64nvme gives it"
    )
    crc32: str = Field(default="", description="base64 of the full-object CRC, as x-amz-checksum-crc32 gives it")
    etag: str = ""
    block_bytes: int = Field(default=0, ge=0, description="size of a block; 0: the whole object is the only one")
    blocks: tuple[Sha256, ...] = Field(
        default=(), description="SHA-256 of each block, by which a range can be verified without the rest"
    )
    components: tuple[str, ...] = Field(
        default=(), description="which components have tensors in it; empty: an index or the like, which all need"
    )


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


class RandomState(Contract):
    """All randomness of training: pure functions of these seeds and of counters (step, pack, position), at any layout.

    There is no generator whose state could be saved, and none that a resumed stage could continue wrongly.
    """

    scheme: Literal["counter/v1"] = "counter/v1"
    seed: int = Field(description="of initial weights and drop path")
    data_seed: int = Field(description="of the order of samples, of frames and of image augmentation")


class SaveTimes(Contract):
    """What a save has cost, in seconds."""

    waited: float = Field(description="training stood still until the checkpoint before this one was committed")
    copied: float = Field(description="training stood still while weights and optimizer were copied off the device")
    uploaded: float = Field(description="the upload went on for, beside training")


class LossSummary(Contract):
    """What people ask first of a finished stage. Losses are the weighted means that the optimizer saw."""

    first: float
    last: float
    steps: int


class Manifest(Sealed):
    """A complete checkpoint. It is written by one rank, last, with `If-None-Match: *`; without it nothing exists.

    `components` maps vision, projector, language, optimizer and state to the names of the sharded tensors they own
    in the torch_dist checkpoint. `data`, `random`, `learning_rate` and `loss_scale` are the rest of a resume.
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
    random: RandomState | None = Field(default=None, description="absent where no training has made the checkpoint")
    learning_rate: float | None = Field(default=None, description="of the last step")
    loss_scale: float = Field(default=1.0, description="bf16 and fp32 training scale no loss")
    created_at: datetime
    config_sha256: Sha256
    model: ModelGeometry
    layout: ParallelLayout
    trainable: tuple[Component, ...] = Field(default=(), description="components that the stage's optimizer updates")
    components: dict[str, tuple[str, ...]]
    objects: tuple[StoredObject, ...]
    loss: LossSummary | None = Field(default=None, description="absent where no training has made the checkpoint")
    resumed_from: ManifestRef | None = Field(
        default=None, description="the stage's checkpoint that this attempt went on from"
    )
    parents: dict[Component, ManifestRef] = Field(
        default_factory=dict, description="which manifest each component of the stage's start came from"
    )
    vision_lineage: tuple[LineageEntry, ...] = Field(
        default=(), description="which checkpoints trained the vision encoder before this stage, oldest first"
    )
    times: SaveTimes | None = None
    copied_from: ManifestRef | None = Field(
        default=None, description="the checkpoint that this is a copy of, whole or of some components"
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


class ComponentManifest(Sealed):
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
