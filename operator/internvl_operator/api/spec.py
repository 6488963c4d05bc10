"""The spec of an InternVLTraining: what a user writes.

Everything is bounded (lengths, items), so that the CEL rules of `api.rules` stay within the API server's cost budget
and an object stays far below etcd's size limit. Floats are decimal strings. What a stage does not say comes from the
spec's own defaults; what neither says comes from the defaults here.
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from internvl_operator.api.base import UNIQUE, ApiModel, Decimal, ObjectUri, SecretName, StageName, keyed_by
from internvl_operator.api.data import DataSpec
from internvl_trainer.contract import catalog
from internvl_trainer.contract.base import Component
from internvl_trainer.contract.job import Attention, Checksums

MAX_STAGES = 8
MAX_NODES = 1000
"""Three digits of the worker's index fit into a pod's name."""


def _known_model(name: str) -> str:
    if name not in catalog.MODELS:
        raise ValueError(str(catalog.UnknownModelError(name)))
    return name


ModelName = Annotated[str, AfterValidator(_known_model), Field(json_schema_extra={"enum": list(catalog.MODELS)})]
"""A model of the catalogue; the CRD lists the names, so an unknown one is rejected when the CR is applied."""

Quantity = Annotated[str | int, Field(description="a Kubernetes quantity: 4, 500m, 64Gi")]


class LocalReference(ApiModel):
    """The name of an object in the same namespace."""

    name: SecretName


class CertificatesReference(ApiModel):
    """Certificates of authorities, in PEM, in a ConfigMap of the same namespace."""

    name: SecretName
    key: Annotated[str, Field(pattern=r"^[-._a-zA-Z0-9]+$", max_length=253)] = "ca.crt"


class ImageSpec(ApiModel):
    """The trainer's container image."""

    ref: Annotated[str, Field(min_length=1, max_length=512)] | None = Field(
        default=None, description="image reference, best by digest; default: the operator's own setting trainer.image"
    )
    pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    pull_secrets: Annotated[tuple[LocalReference, ...], Field(max_length=8)] = ()


class Compute(ApiModel):
    """Requests and limits of a trainer container, by resource name."""

    requests: Annotated[dict[str, Quantity], Field(max_length=16)] = Field(default_factory=dict)
    limits: Annotated[dict[str, Quantity], Field(max_length=16)] = Field(default_factory=dict)


class ResourcesSpec(ApiModel):
    """How many machines and how much of each."""

    nodes: int = Field(default=1, ge=1, le=MAX_NODES, description="pods of a stage's job")
    processes_per_node: int = Field(default=1, ge=1, le=64, description="training processes, one per accelerator")
    gpu_resource: Annotated[str, Field(max_length=128)] | None = Field(
        default=None,
        description="extended resource of the accelerators, e.g. nvidia.com/gpu: each pod asks for processesPerNode of "
        "it; absent: the pods ask for none and train on CPU",
    )
    shared_memory: Quantity = Field(default="1Gi", description="size of /dev/shm; counts as memory of the pod")
    scratch: Quantity | None = Field(
        default=None, description="size limit of the node-local scratch volume; absent: what the node has"
    )
    container: Compute = Compute()


class StageResources(ApiModel):
    """What a stage overrides of spec.resources."""

    nodes: int | None = Field(default=None, ge=1, le=MAX_NODES)
    processes_per_node: int | None = Field(default=None, ge=1, le=64)


class ParallelismSpec(ApiModel):
    """The process grid. tensor * pipeline * data = nodes * processesPerNode."""

    tensor: int = Field(default=1, ge=1, le=64, description="processes that share each layer")
    pipeline: int = Field(default=1, ge=1, le=128, description="processes that the layers are spread over")
    data: int = Field(default=0, ge=0, le=64000, description="replicas; 0: as many as the nodes hold")
    vision: Literal["tensor", "tiles"] = Field(
        default="tensor",
        description="what of the vision encoder tensor-parallel processes share: the weights of each layer, or the "
        "tiles of a pack, each having all weights",
    )
    sequence: bool = Field(
        default=False, description="sequence parallelism: tensor-parallel processes share norms and residuals, too"
    )
    pipeline_layers: Annotated[tuple[Annotated[int, Field(ge=0, le=1000)], ...], Field(max_length=128)] | None = Field(
        default=None,
        description="layers of the language model on each pipeline stage; absent: computed from what they cost",
    )
    optimizer: Literal["sharded", "replicated"] = Field(
        default="sharded",
        description="how replicas hold the optimizer's state: each its own part (ZeRO stage 1), or each all of it",
    )


class StorageSpec(ApiModel):
    """The object store for checkpoints, data and weights."""

    uri: ObjectUri = Field(description="folder for this run's checkpoints; everything goes below <uri>/<run uid>/")
    endpoint_url: Annotated[str, Field(pattern=r"^https?://[^@]+$", max_length=512)] | None = Field(
        default=None, description="absent: AWS's own; credentials have no place in it, but in secretRef"
    )
    region: Annotated[str, Field(max_length=64)] | None = None
    path_style: bool = Field(default=True, description="bucket in the path, not in the host name")
    checksums: Checksums = Field(
        default="auto",
        description="what uploads carry for the store to verify; auto: the best that a probe finds it to verify; none: "
        "for stores that take no checksum (manifests hold our own digests in any case)",
    )
    ca_config_map: CertificatesReference | None = Field(
        default=None,
        description="certificates that sign an https endpoint's own; absent: the public authorities alone are trusted",
    )
    secret_ref: LocalReference | None = Field(
        default=None,
        description="Secret with the keys AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and AWS_SESSION_TOKEN if the "
        "credentials are temporary; absent: the pods' own identity",
    )


class WeightsSpec(ApiModel):
    """Manifest of the checkpoint or component that each part of the model starts from; absent: random weights."""

    vision: ObjectUri | None = None
    projector: ObjectUri | None = None
    language: ObjectUri | None = None


class TrainingRef(ApiModel):
    """A stage of another InternVLTraining in the same namespace, which publishes its vision encoder."""

    name: Annotated[str, Field(min_length=1, max_length=30)]
    stage: StageName


class VisionFrom(ApiModel):
    """Exactly one of the two."""

    training_ref: TrainingRef | None = Field(
        default=None, description="wait until that stage has published vision, then start from it"
    )
    uri: ObjectUri | None = Field(
        default=None, description="manifest of a published component, or of a checkpoint that holds it"
    )


class VisionSpec(ApiModel):
    """Where the vision encoder comes from, in place of weights.vision."""

    from_: VisionFrom = Field(alias="from")


class RecomputeSpec(ApiModel):
    """Which activations are computed again in the backward pass instead of being kept. A frozen part keeps nothing."""

    vision: Literal["none", "layers", "whole"] = Field(
        default="layers", description="layers: keep the input of each layer; whole: keep the pixels alone"
    )
    language: Literal["none", "layers"] = "layers"


class OptimizerSpec(ApiModel):
    """AdamW under a cosine schedule with linear warm-up."""

    peak_lr: Decimal
    min_lr: Decimal = "0"
    warmup_steps: int = Field(default=0, ge=0, le=100_000_000)
    schedule_steps: int | None = Field(
        default=None, ge=1, le=100_000_000, description="length of the cosine, where it is not the stage's steps"
    )
    weight_decay: Decimal = "0.05"
    decay_scope: Literal["all", "matrices"] = Field(
        default="all", description="what weight decay shrinks: every trainable parameter, or those of two axes or more"
    )
    beta1: Decimal = "0.9"
    beta2: Decimal = "0.999"
    clip_grad_norm: Decimal = Field(default="1.0", description="0: no clipping")


class LossSpec(ApiModel):
    """How much each token counts."""

    reweighting: Literal["token", "sample", "square"] = Field(
        default="square", description="a sample of x supervised tokens weighs x, 1 or sqrt(x)"
    )
    denominator: Literal["global-batch", "micro-step"] = Field(
        default="global-batch",
        description="what the weighted loss is divided by: the weights of the whole global batch, or those of each "
        "micro-step, as the released recipes do",
    )
    spike_limit: Decimal | None = Field(
        default=None,
        description="stop before a step whose loss is more than so many times the mean of the last 20; absent: never",
    )


class CheckpointSpec(ApiModel):
    """When to save, and what is kept. A stage always ends with a checkpoint.

    The last checkpoint of a stage, pinned ones and those that something published points at are kept in any case.
    """

    every_steps: int = Field(default=1000, ge=1, le=100_000_000)
    keep_last: int | None = Field(
        default=None, ge=1, le=100_000_000,
        description="how many of the stage's newest checkpoints are kept, older ones are removed; absent: all are kept",
    )  # fmt: skip
    keep_every: int | None = Field(
        default=None, ge=1, le=100_000_000,
        description="together with keepLast: checkpoints whose step is a multiple of this are kept, too; a multiple of "
        "everySteps",
    )  # fmt: skip


class StageSpec(ApiModel):
    """One training stage. It starts from the stage before, the first one from weights and vision.from."""

    name: StageName
    trainable: Annotated[tuple[Component, ...], Field(min_length=1, max_length=3, json_schema_extra=UNIQUE)]
    steps: int = Field(ge=1, le=100_000_000, description="optimizer steps at most")
    stop_after_tokens: int | None = Field(
        default=None, ge=1, le=1_000_000_000_000_000,
        description="end the stage before that, with the step in which it has trained on so many tokens",
    )  # fmt: skip
    global_batch: int = Field(ge=1, le=1_000_000, description="packs per optimizer step, over the whole job")
    optimizer: OptimizerSpec
    data: DataSpec = DataSpec()
    loss: LossSpec = LossSpec()
    drop_path: Annotated[str, Field(pattern=r"^0(\.[0-9]+)?$", max_length=24)] = Field(
        default="0", description="stochastic depth of the vision encoder, below 1"
    )
    precision: Literal["bf16", "fp32"] = "bf16"
    recompute: RecomputeSpec = RecomputeSpec()
    attention: Attention = Field(
        default="auto", description="implementation of attention; auto: the fastest that the image and the GPU have"
    )
    seed: int = Field(default=42, ge=0, le=2147483647)
    checkpoint: CheckpointSpec = CheckpointSpec()
    publish: Annotated[tuple[Component, ...], Field(max_length=3, json_schema_extra=UNIQUE)] = Field(
        default=(), description="components offered to other runs when the stage is done"
    )
    parallelism: ParallelismSpec | None = Field(default=None, description="in place of spec.parallelism, as a whole")
    resources: StageResources | None = None


class BackoffSpec(ApiModel):
    """The pause between a failed attempt and the next: doubled from `initial` with every failure, up to `max`."""

    initial: int = Field(default=10, ge=0, le=3600, description="seconds")
    max: int = Field(default=300, ge=0, le=86400, description="seconds")


class RetrySpec(ApiModel):
    """How often a stage may fail."""

    limit: int = Field(
        default=3,
        ge=0,
        le=100,
        description="failures of a stage that another attempt follows, and failed pods "
        "of an index Job that another one follows; interruptions are free",
    )
    backoff_seconds: BackoffSpec = BackoffSpec()


class RunPolicySpec(ApiModel):
    """Limits of the run. May be changed while it runs."""

    retry: RetrySpec = RetrySpec()
    attempt_timeout_seconds: int = Field(
        default=0, ge=0, le=31_536_000,
        description="an attempt whose job is older, or a pod of an index Job that is, is stopped and counts as failed; "
        "0: no limit",
    )  # fmt: skip
    checkpoint_timeout_seconds: int = Field(
        default=300, ge=0, le=86400,
        description="how long after a job's success its final manifest may take to appear",
    )  # fmt: skip


class OverlayMetadata(ApiModel):
    """Labels and annotations added to the pods; the operator's own labels cannot be replaced."""

    labels: Annotated[dict[str, Annotated[str, Field(max_length=63)]], Field(max_length=32)] = Field(
        default_factory=dict
    )
    annotations: Annotated[dict[str, Annotated[str, Field(max_length=4096)]], Field(max_length=32)] = Field(
        default_factory=dict
    )


class PodTemplateOverlay(ApiModel):
    """Laid over the pods that the operator builds; the last resort for what no other field says.

    `spec` is a part of a PodSpec, merged as `jobs.overlay` says: mappings field by field, containers, volumes, env and
    volumeMounts by their keys, other lists as a whole; null removes. The trainer's container is named pytorch. Its
    schema is left open in the CRD: a copy of PodSpec's would be larger than all else together and stale with each
    release of Kubernetes, and the API server checks the pods themselves.
    """

    metadata: OverlayMetadata = OverlayMetadata()
    spec: Annotated[dict[str, Any], Field(json_schema_extra={"x-kubernetes-preserve-unknown-fields": True})] = Field(
        default_factory=dict
    )


class TrainingSpec(ApiModel):
    """What to train, on what, and how. Fixed once the first stage has begun, but for suspend and runPolicy."""

    model: ModelName
    image: ImageSpec = ImageSpec()
    resources: ResourcesSpec = ResourcesSpec()
    parallelism: ParallelismSpec = ParallelismSpec()
    pod_template: PodTemplateOverlay = PodTemplateOverlay()
    storage: StorageSpec
    weights: WeightsSpec = WeightsSpec()
    vision: VisionSpec | None = None
    data: DataSpec = DataSpec()
    stages: Annotated[
        tuple[StageSpec, ...],
        Field(min_length=1, max_length=MAX_STAGES, json_schema_extra=keyed_by("name")),
    ] = Field(description="in order of execution")
    suspend: bool = Field(default=False, description="stop the run's pods after a checkpoint; false resumes")
    run_policy: RunPolicySpec = RunPolicySpec()
