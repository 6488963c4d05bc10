"""The vision handoff: may a run take the vision encoder that another run's stage publishes?"""

from internvl_operator.api.reasons import Reason
from internvl_operator.api.status import ConditionType, StageState
from internvl_operator.api.training import InternVLTraining
from internvl_operator.domain.state import RunSource, SourceInvalid, SourceReady, SourceWaiting
from internvl_trainer.contract import catalog
from internvl_trainer.contract.base import Component, RunIdentity
from internvl_trainer.contract.manifest import ManifestRef


def judge_source(
    source: RunSource, *, run: RunIdentity, model: str, other: InternVLTraining | None
) -> SourceReady | SourceWaiting | SourceInvalid:
    """What the named run offers.

    Args:
        source: run and stage that spec.vision.from.trainingRef names.
        run: who asks; it cannot wait for itself.
        model: catalogue name of the asking run's model.
        other: the named run, None where it does not exist.

    Returns:
        SourceReady names the component manifest that the run's status records; its bytes are still to be verified.
    """
    where = f"{run.namespace}/{source.run}"
    if source.run == run.name:
        return _invalid(f"spec.vision.from.trainingRef.name is {source.run}, the run itself; name another run")
    if other is None:
        return SourceWaiting(
            Reason.VISION_SOURCE_NOT_FOUND, f"InternVLTraining {where} does not exist (not applied yet, or deleted)"
        )
    stage = next((stage for stage in other.spec.stages if stage.name == source.stage), None)
    if stage is None:
        known = ", ".join(stage.name for stage in other.spec.stages)
        return _invalid(f"InternVLTraining {where} has no stage {source.stage!r}; its stages: {known}")
    if Component.VISION not in stage.publish:
        return _invalid(f"stage {source.stage!r} of InternVLTraining {where} does not publish vision")
    if catalog.get(other.spec.model).vision != catalog.get(model).vision:
        return _invalid(
            f"InternVLTraining {where} trains {other.spec.model}, whose vision encoder is of another geometry "
            f"than that of {model}"
        )
    return _published(other, source, where)


def _published(other: InternVLTraining, source: RunSource, where: str) -> SourceReady | SourceWaiting | SourceInvalid:
    status = other.status.stage(source.stage)
    offer = next((offer for offer in status.published if offer.component == Component.VISION), None)
    if offer is not None:
        return SourceReady(ManifestRef(uri=offer.uri, sha256=offer.sha256), run=where, stage=source.stage)
    failed = other.status.condition(ConditionType.FAILED)
    if failed is not None and failed.status == "True":
        return SourceInvalid(
            Reason.VISION_SOURCE_FAILED,
            f"InternVLTraining {where} failed before stage {source.stage!r} published vision: {failed.message}",
        )
    if status.state == StageState.SUCCEEDED:
        return _invalid(f"stage {source.stage!r} of InternVLTraining {where} is done and has published no vision")
    if other.metadata.deletion_timestamp is not None:
        return SourceWaiting(Reason.VISION_SOURCE_NOT_FOUND, f"InternVLTraining {where} is being deleted")
    return SourceWaiting(
        Reason.WAITING_FOR_VISION,
        f"waiting for stage {source.stage!r} of InternVLTraining {where} to publish vision; it is {status.state.value}",
    )


def _invalid(message: str) -> SourceInvalid:
    return SourceInvalid(Reason.VISION_SOURCE_INVALID, message)
