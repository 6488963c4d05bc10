"""The job config of one attempt: the stage's plan plus what it starts from."""

from internvl_operator.api.status import StageStatus
from internvl_operator.domain.stages import StagePlan
from internvl_trainer.contract.base import RunIdentity
from internvl_trainer.contract.job import JobConfig
from internvl_trainer.contract.manifest import ManifestRef


def before_its_first_attempt(plan: StagePlan, run: RunIdentity) -> JobConfig:
    """What is known of a stage's first attempt before it is opened: all but what it starts from."""
    return build(plan, StageStatus(name=plan.name, attempt=1), run)


def build(plan: StagePlan, stage: StageStatus, run: RunIdentity) -> JobConfig:
    """What the open attempt of a stage is given.

    The origins come from the record, not from the world: all attempts of a stage start from the same checkpoints,
    whatever has been published since. Where the stage has a checkpoint of its own, the trainer resumes from that.
    """
    return JobConfig(
        run=run,
        stage=plan.name,
        attempt=stage.attempt,
        model=plan.model,
        layout=plan.layout,
        partition=plan.partition,
        recompute=plan.recompute,
        attention=plan.attention,
        trainable=plan.trainable,
        init={
            origin.component: ManifestRef(uri=origin.uri, sha256=origin.sha256) for origin in stage.initialised_from
        },
        data=plan.data,
        optimization=plan.optimization,
        checkpoint=plan.checkpoint,
        storage=plan.storage,
    )  # fmt: skip
