"""Expansion: from what the user wrote to what each stage will run, with every default filled in."""

from dataclasses import dataclass

from pydantic import ValidationError

from internvl_operator.api.reasons import Reason
from internvl_operator.api.spec import (
    CertificatesReference,
    ImageSpec,
    PodTemplateOverlay,
    ResourcesSpec,
    StageSpec,
    StorageSpec,
    TrainingSpec,
)
from internvl_operator.domain import data_config, parallelism, retention
from internvl_operator.domain.problems import SpecProblem
from internvl_trainer.contract import catalog, keys
from internvl_trainer.contract.base import Component
from internvl_trainer.contract.catalog import ModelGeometry
from internvl_trainer.contract.job import (
    Attention,
    CheckpointConfig,
    DataConfig,
    OptimizationConfig,
    PartitionConfig,
    RecomputeConfig,
    StorageConfig,
)
from internvl_trainer.contract.manifest import ParallelLayout

STORAGE_CA_FOLDER = "/etc/internvl-storage-ca"
"""Where pods find the certificates of the object store's authorities. Not below the job config's folder: a container
runtime cannot mount one volume inside another that is read-only."""

STORAGE_CA_FILE = "ca.crt"


@dataclass(frozen=True)
class StagePlan:
    """Everything that the attempts of one stage have in common."""

    name: str
    index: int
    """Position in the order of execution, from 0."""
    model: ModelGeometry
    trainable: tuple[Component, ...]
    layout: ParallelLayout
    partition: PartitionConfig
    recompute: RecomputeConfig
    attention: Attention
    nodes: int
    processes_per_node: int
    data: DataConfig
    optimization: OptimizationConfig
    checkpoint: CheckpointConfig
    storage: StorageConfig
    secret: str | None
    """Name of the Secret with the object store's credentials; None: the pods' own identity."""
    storage_ca: CertificatesReference | None
    """The certificates that sign the object store's; None: the public authorities alone are trusted."""
    image: ImageSpec
    resources: ResourcesSpec
    """Of the whole spec; `nodes` and `processes_per_node` above hold the stage's own."""
    pod_template: PodTemplateOverlay
    """The user's overlay."""


@dataclass(frozen=True)
class Expansion:
    """The stages in order, and everything that is wrong with the spec: nothing may run while there are problems."""

    stages: tuple[StagePlan, ...]
    problems: tuple[SpecProblem, ...]

    def stage(self, name: str) -> StagePlan:
        """The plan of a stage that the spec names."""
        return next(stage for stage in self.stages if stage.name == name)


def expand(spec: TrainingSpec, *, default_image: str = "") -> Expansion:
    """Lay out every stage of a run.

    The API server's schema and CEL rules have checked most of it before; this is checked again, since an older CRD or
    a lenient rule may have let it pass.

    Args:
        spec: as the user applied it.
        default_image: the platform's trainer image, for specs that name none.
    """
    stages: list[StagePlan] = []
    problems: list[SpecProblem] = []
    image = spec.image.model_copy(update={"ref": spec.image.ref or default_image or None})
    if image.ref is None:
        problems.append(
            SpecProblem("spec.image.ref", "no image is named, and the operator has no default trainer image")
        )
    problems += _storage_problems(spec.storage)
    for index, stage in enumerate(spec.stages):
        plan, faults = _expand_stage(spec, stage, index, image)
        problems += faults
        stages += [plan] if plan else []
    names = [stage.name for stage in spec.stages]
    problems += [
        SpecProblem("spec.stages", f"stage name {name!r} is used twice; names must differ")
        for name in sorted({name for name in names if names.count(name) > 1})
    ]
    return Expansion(tuple(stages), tuple(problems))


def _expand_stage(
    spec: TrainingSpec, stage: StageSpec, index: int, image: ImageSpec
) -> tuple[StagePlan | None, list[SpecProblem]]:
    where = f"spec.stages[{stage.name}]"
    model = catalog.get(spec.model)
    sizes = parallelism.sizes(spec, stage)
    layout, problems = parallelism.layout(sizes, model)
    data, faults = data_config.build(
        spec.data, stage.data, index=keys.index_prefix(spec.storage.uri), where=f"{where}.data"
    )
    problems += faults
    optimization, faults = _optimization(stage, where)
    problems += faults
    kept, faults = retention.build(stage, where)
    problems += faults
    if layout and stage.global_batch % layout.data:
        problems.append(
            SpecProblem(
                f"{where}.globalBatch",
                f"{stage.global_batch} packs cannot be shared evenly by {layout.data} data-parallel replicas; "
                f"use a multiple of {layout.data}",
                Reason.INVALID_PARALLELISM,
            )
        )
    if layout is None or data is None or optimization is None:
        return None, problems
    plan = StagePlan(
        name=stage.name,
        index=index,
        model=model,
        trainable=stage.trainable,
        layout=layout,
        partition=parallelism.partition(sizes),
        recompute=RecomputeConfig.model_validate(stage.recompute.model_dump()),
        attention=stage.attention,
        nodes=sizes.nodes,
        processes_per_node=sizes.processes_per_node,
        data=data,
        optimization=optimization,
        checkpoint=CheckpointConfig(every_steps=stage.checkpoint.every_steps, publish=stage.publish, retention=kept),
        storage=_storage(spec.storage),
        secret=spec.storage.secret_ref.name if spec.storage.secret_ref else None,
        storage_ca=spec.storage.ca_config_map,
        image=image,
        resources=spec.resources,
        pod_template=spec.pod_template,
    )
    unbalanced = parallelism.balance_problem(sizes, plan)
    return plan, [*problems, *([unbalanced] if unbalanced else [])]


def _optimization(stage: StageSpec, where: str) -> tuple[OptimizationConfig | None, list[SpecProblem]]:
    optimizer = stage.optimizer
    try:
        config = OptimizationConfig(
            steps=stage.steps,
            stop_after_tokens=stage.stop_after_tokens,
            schedule_steps=optimizer.schedule_steps,
            warmup_steps=optimizer.warmup_steps,
            peak_lr=float(optimizer.peak_lr),
            min_lr=float(optimizer.min_lr),
            weight_decay=float(optimizer.weight_decay),
            decay_scope=optimizer.decay_scope,
            beta1=float(optimizer.beta1),
            beta2=float(optimizer.beta2),
            clip_grad_norm=float(optimizer.clip_grad_norm),
            global_batch=stage.global_batch,
            loss_reweighting=stage.loss.reweighting,
            loss_denominator=stage.loss.denominator,
            spike_limit=float(stage.loss.spike_limit) if stage.loss.spike_limit else None,
            drop_path=float(stage.drop_path),
            precision=stage.precision,
            seed=stage.seed,
        )
    except ValidationError as error:
        return None, [
            SpecProblem(f"{where}, as {'.'.join(map(str, fault['loc']))}", f"{fault['msg']}, not {fault['input']}")
            for fault in error.errors()
        ]
    return config, []


def _storage_problems(storage: StorageSpec) -> list[SpecProblem]:
    if storage.ca_config_map is None or (storage.endpoint_url or "https://").startswith("https://"):
        return []
    return [
        SpecProblem(
            "spec.storage.caConfigMap",
            f"endpointUrl is {storage.endpoint_url}, which shows no certificate; use https://, or leave it out",
        )
    ]


def _storage(storage: StorageSpec) -> StorageConfig:
    return StorageConfig(
        uri=storage.uri,
        endpoint_url=storage.endpoint_url,
        region=storage.region,
        path_style=storage.path_style,
        ca_file=f"{STORAGE_CA_FOLDER}/{STORAGE_CA_FILE}" if storage.ca_config_map else None,
        checksums=storage.checksums,
    )
