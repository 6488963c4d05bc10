"""The job config: everything that one attempt of one stage needs to know, written by the operator into a ConfigMap.

Nothing in it is secret: credentials for the object store come from the environment (boto3's standard chain).
"""

from typing import Literal

from pydantic import Field, NonNegativeInt, model_validator

from internvl_trainer.contract.base import Component, Contract, RunIdentity
from internvl_trainer.contract.catalog import ModelGeometry
from internvl_trainer.contract.manifest import ManifestRef, ParallelLayout
from internvl_trainer.contract.retention import Retention

CONFIG_FILE = "job.json"
"""Name of the job config inside the ConfigMap and inside CONFIG_FOLDER."""

CONFIG_FOLDER = "/etc/internvl"
"""Where the ConfigMap is mounted in a trainer pod."""

PROGRESS_CA_FILE = "progress-ca.crt"
"""Name of the progress endpoint's CA certificate in the same ConfigMap."""


Checksums = Literal["auto", "CRC64NVME", "CRC32", "none"]
"""What requests carry for the store to verify; auto: the best that a probe finds the store to verify."""


class StorageConfig(Contract):
    """Where checkpoints go. `uri` is s3://bucket/prefix or file:///folder; endpoint and region default to AWS's own."""

    uri: str = Field(pattern=r"^(s3|file)://.+")
    endpoint_url: str | None = None
    region: str | None = None
    path_style: bool = Field(default=True, description="most S3-compatible stores need it; AWS takes both")
    ca_file: str | None = Field(default=None, description="PEM file with the certificates that sign the endpoint's")
    checksums: Checksums = "auto"


class MixtureSource(Contract):
    """One data set of a mixture, in the terms of the InternVL-2.5 report: n_max is `max_tiles`, r is `repeat`."""

    name: str = Field(min_length=1, max_length=128, description="unique within the mixture")
    annotation: str = Field(description="URI of the JSONL file")
    root: str = Field(default="", description="URI of the media's folder; absent: the annotation's own")
    augment: bool = Field(default=False, description="one JPEG pass per tile, at a random quality of 75..100")
    max_tiles: int | None = Field(default=None, ge=1, description="n_max of this data set, in place of the stage's")
    repeat: float = Field(default=1.0, gt=0, description="passes over the data set in one epoch, fractions included")


class DataConfig(Contract):
    """What a stage trains on: InternVL's own meta JSON, or a mixture, and a Hugging Face tokenizer folder.

    A pack holds at most `pack_tokens` tokens and `pack_tiles` tiles, both inclusive.
    """

    meta: str | None = Field(default=None, description="URI of the meta JSON, s3:// or file:// or a path")
    mixture: tuple[MixtureSource, ...] = Field(default=(), description="the data sets themselves, in place of `meta`")
    tokenizer: str = Field(description="URI of a folder with tokenizer.json")
    template: Literal["internvl2_5", "internlm2-chat", "Hermes-2"] = Field(
        default="internvl2_5", description="how a conversation becomes text; the other two are InternVL 2.0's and older"
    )
    max_tiles: int = Field(default=12, ge=1, description="n_max where a data set has none of its own")
    thumbnail: bool = True
    min_frames: int = Field(default=8, ge=1, description="of a video; how many is drawn for each sample")
    max_frames: int = Field(default=32, ge=1)
    frame_sampling: str = Field(
        default="rand",
        pattern=r"^(rand|middle|fps[0-9]+(\.[0-9]+)?)$",
        description="which frames of a video: one of each equal part, at random or its middle; or so many a second",
    )
    pack_tokens: int = Field(default=16384, ge=1)
    pack_tiles: int = Field(default=48, ge=1)
    repeat_mode: Literal["exact", "reference"] = Field(
        default="exact",
        description="what a fraction of `repeat` means: a seeded part of the data set, another one each epoch, or, as "
        "the released trainer does, its first lines",
    )
    max_bad_fraction: float = Field(
        default=0.01, ge=0, le=1, description="share of the samples that may be unusable before the stage ends"
    )
    index: str | None = Field(
        default=None, description="folder that keeps indexes of data sets; absent: indexed anew in every pod's scratch"
    )
    workers: int | None = Field(
        default=None,
        ge=0,
        description="processes that load packs, for each trainer process that needs tiles; 0: a thread of the trainer; "
        "absent: what the pod's CPUs allow",
    )
    seed: int = 42

    @model_validator(mode="after")
    def _one_description(self) -> "DataConfig":
        if (self.meta is None) != bool(self.mixture):
            raise ValueError("give one of data.meta (InternVL's meta JSON) and data.mixture (the data sets themselves)")
        if self.min_frames > self.max_frames:
            raise ValueError(f"min_frames is {self.min_frames}, more than max_frames, {self.max_frames}")
        if self.frame_sampling.startswith("fps") and not float(self.frame_sampling.removeprefix("fps")):
            raise ValueError(f"frame_sampling is {self.frame_sampling}; a video shows more than 0 frames a second")
        return self


class PartitionConfig(Contract):
    """How the model is cut to the process grid, beyond the grid's sizes.

    `vision` says what of the vision encoder the tensor-parallel ranks share: the weights of each layer (`tensor`), or
    the tiles of a pack, each rank having all weights (`tiles`: no communication inside layers, more memory).
    `optimizer` says how the optimizer's state is spread over the data-parallel replicas: each owns a part (`sharded`,
    ZeRO stage 1), or each has all of it (`replicated`); with one replica both are the same.
    """

    vision: Literal["tensor", "tiles"] = "tensor"
    sequence: bool = Field(
        default=False, description="sequence parallelism: the language model's norms and residuals are shared, too"
    )
    pipeline_layers: tuple[NonNegativeInt, ...] | None = Field(
        default=None, description="language layers of each pipeline stage; absent: computed from their cost"
    )
    optimizer: Literal["sharded", "replicated"] = "sharded"


class RecomputeConfig(Contract):
    """Which activations are computed again in the backward pass instead of being kept.

    `layers` keeps the input of each layer; `whole` (vision only) keeps the pixels, and each layer's input only while
    that pack's backward pass runs. A frozen vision encoder keeps nothing, whatever is said here.
    """

    vision: Literal["none", "layers", "whole"] = "layers"
    language: Literal["none", "layers"] = "layers"


Attention = Literal["auto", "transformer-engine", "flash-attention-3", "flash-attention-2", "torch", "reference"]
"""Which implementation of attention over the segments of a pack; auto: the fastest that is there."""


class OptimizationConfig(Contract):
    """AdamW under a cosine schedule. `global_batch` counts packs per optimizer step over the whole job.

    The stage ends after `steps`, or before that with the step in which it has trained on `stop_after_tokens`.
    """

    steps: int = Field(ge=1, description="optimizer steps after which the stage is done at the latest")
    stop_after_tokens: int | None = Field(default=None, ge=1, description="tokens of packs, padding excluded")
    schedule_steps: int | None = Field(default=None, ge=1, description="length of the cosine; default: steps")
    warmup_steps: int = Field(default=0, ge=0)
    peak_lr: float = Field(gt=0)
    min_lr: float = Field(default=0.0, ge=0)
    weight_decay: float = Field(default=0.05, ge=0)
    decay_scope: Literal["all", "matrices"] = Field(
        default="all",
        description="all: every trainable parameter, as the released recipes do; matrices: those with two axes or more",
    )
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    clip_grad_norm: float = Field(default=1.0, ge=0)
    global_batch: int = Field(ge=1)
    loss_reweighting: Literal["token", "sample", "square"] = "square"
    loss_denominator: Literal["global-batch", "micro-step"] = Field(
        default="global-batch",
        description="what the weighted loss is divided by: the weights of the whole global batch, or, as the released "
        "recipes do, those of each micro-step over the data-parallel ranks, averaged over micro-steps",
    )
    spike_limit: float | None = Field(
        default=None,
        gt=1,
        description="stop before an optimizer step whose loss is more than this many times the mean loss of the last "
        "20 steps; absent: never",
    )
    drop_path: float = Field(default=0.0, ge=0, lt=1)
    precision: Literal["bf16", "fp32"] = "bf16"
    seed: int = 42

    def is_done(self, *, step: int, tokens: int) -> bool:
        """Whether the stage has no step left after `step` steps, in which it trained on `tokens` tokens."""
        return step >= self.steps or (self.stop_after_tokens is not None and tokens >= self.stop_after_tokens)


class CheckpointConfig(Contract):
    """When to save. A stage always ends with a checkpoint; `publish` names components offered to other runs."""

    every_steps: int = Field(ge=1)
    publish: tuple[Component, ...] = ()
    retention: Retention = Retention()
    patience_seconds: float = Field(
        default=900, ge=0, description="how long an upload is tried again while the store does not answer"
    )


class ProgressConfig(Contract):
    """Where to report progress. Files are paths inside the pod."""

    url: str
    ca_file: str | None = None
    token_file: str | None = None
    interval_seconds: float = Field(default=5.0, gt=0)


class JobConfig(Contract):
    """One attempt of one stage."""

    format: Literal["internvl-job/v1"] = "internvl-job/v1"
    run: RunIdentity
    stage: str
    attempt: int = Field(ge=1)
    model: ModelGeometry
    layout: ParallelLayout
    partition: PartitionConfig = PartitionConfig()
    recompute: RecomputeConfig = RecomputeConfig()
    attention: Attention = "auto"
    trainable: tuple[Component, ...] = Field(min_length=1)
    init: dict[Component, ManifestRef] = Field(
        default_factory=dict,
        description="checkpoint or component manifest each component starts from; absent: random initialisation. "
        "Ignored where the stage has a complete checkpoint of its own to resume from",
    )
    data: DataConfig
    optimization: OptimizationConfig
    checkpoint: CheckpointConfig
    storage: StorageConfig
    progress: ProgressConfig | None = None

    @model_validator(mode="after")
    def _batch_divides(self) -> "JobConfig":
        batch, data = self.optimization.global_batch, self.layout.data
        if batch % data:
            raise ValueError(
                f"global_batch is {batch} packs, which {data} data-parallel replicas cannot share evenly; "
                f"use a multiple of {data}"
            )
        return self
