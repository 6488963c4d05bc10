"""What a pass has to ask the object store for, and other runs: the least that `plan` needs to decide."""

from collections.abc import Iterable

from internvl_operator.api.spec import TrainingSpec
from internvl_operator.api.status import StageState, TrainingStatus
from internvl_operator.domain.state import ChildJob, GateQuery, JobPhase, RunSource, SourceQuery, UriSource
from internvl_trainer.contract import keys
from internvl_trainer.contract.base import Component, RunIdentity


def gate_queries(
    spec: TrainingSpec, run: RunIdentity, status: TrainingStatus, jobs: Iterable[ChildJob]
) -> tuple[GateQuery, ...]:
    """The checkpoint to verify: that of the current stage, once the job of its open attempt has succeeded."""
    if status.is_finished:
        return ()
    current = next((stage for stage in spec.stages if status.stage(stage.name).state != StageState.SUCCEEDED), None)
    if current is None:
        return ()
    recorded = status.stage(current.name)
    succeeded = any(job.key == (current.name, recorded.attempt) and job.phase == JobPhase.SUCCEEDED for job in jobs)
    if not (recorded.is_open and succeeded):
        return ()
    return (
        GateQuery(
            stage=current.name,
            attempt=recorded.attempt,
            run_uid=run.uid,
            total_steps=current.steps,
            may_end_early=current.stop_after_tokens is not None,
            prefix=keys.stage_prefix(spec.storage.uri, run.uid, current.name),
            publish=current.publish,
        ),
    )


def source_queries(spec: TrainingSpec, status: TrainingStatus) -> tuple[SourceQuery, ...]:
    """Where the run starts from, until its first attempt is on record: from then on the record alone counts."""
    first = status.stage(spec.stages[0].name)
    return () if first.has_begun or status.is_finished else run_sources(spec)


def run_sources(spec: TrainingSpec) -> tuple[SourceQuery, ...]:
    """The components of the first stage that do not start from random weights, and what each starts from."""
    sources: dict[Component, RunSource | UriSource] = {
        component: UriSource(uri)
        for component, uri in (
            (Component.VISION, spec.weights.vision),
            (Component.PROJECTOR, spec.weights.projector),
            (Component.LANGUAGE, spec.weights.language),
        )
        if uri
    }
    if spec.vision and spec.vision.from_.training_ref:
        reference = spec.vision.from_.training_ref
        sources[Component.VISION] = RunSource(reference.name, reference.stage)
    elif spec.vision and spec.vision.from_.uri:
        sources[Component.VISION] = UriSource(spec.vision.from_.uri)
    return tuple(SourceQuery(component, source) for component, source in sources.items())
