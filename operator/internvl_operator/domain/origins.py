"""What a stage starts from: the stage before it; the first one from weights and the vision encoder of another run."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from internvl_operator.api.reasons import Reason
from internvl_operator.api.status import ComponentOrigin, StageStatus
from internvl_operator.domain.situation import Situation, failed
from internvl_operator.domain.state import (
    SourceInvalid,
    SourceQuery,
    SourceReady,
    SourceResult,
    SourceWaiting,
    Unavailable,
)
from internvl_trainer.contract.base import Component, RunIdentity

_LOOK_AGAIN_SECONDS = 15.0


class Start(NamedTuple):
    """What a stage starts from; or, with a situation, what it lacks for that."""

    origins: tuple[ComponentOrigin, ...] = ()
    lacking: Component | None = None
    situation: Situation | None = None


def from_stage(previous: StageStatus, run: RunIdentity) -> Start:
    """All components from the final checkpoint of the stage before, which the gate has verified."""
    checkpoint = previous.last_checkpoint
    if checkpoint is None or not checkpoint.verified:
        raise ValueError(f"stage {previous.name} has no verified checkpoint; only a finished stage can be started from")
    found = tuple(
        ComponentOrigin(
            component=component,
            uri=checkpoint.uri,
            sha256=checkpoint.manifest_sha256,
            run=f"{run.namespace}/{run.name}",
            stage=previous.name,
        )
        for component in Component
    )
    return Start(found)


def from_sources(queries: Sequence[SourceQuery], answers: Mapping[Component, SourceResult]) -> Start:
    """What the first stage starts from, or the component that it has to wait for (or can never have), and why.

    A component that can never be had is named before one that is waited for.
    """
    found: list[ComponentOrigin] = []
    lacking: list[Start] = []
    for query in queries:
        result = answers.get(query.component)
        if isinstance(result, SourceReady):
            found.append(
                ComponentOrigin(
                    component=query.component,
                    uri=result.ref.uri,
                    sha256=result.ref.sha256,
                    run=result.run,
                    stage=result.stage,
                )
            )
        else:
            situation = _situation(query.component, result)
            lacking.insert(0 if situation.failed else len(lacking), Start((), query.component, situation))
    return lacking[0] if lacking else Start(tuple(found))


def _situation(component: Component, result: SourceInvalid | SourceWaiting | Unavailable | None) -> Situation:
    match result:
        case SourceInvalid(reason=reason, message=message):
            return failed(reason, message)
        case SourceWaiting(reason=reason, message=message):
            return Situation(reason, message, look_again=_LOOK_AGAIN_SECONDS)
        case Unavailable(error=error):
            return Situation(Reason.STORE_UNAVAILABLE, error, look_again=_LOOK_AGAIN_SECONDS)
        case None:
            return Situation(
                Reason.WAITING_FOR_WEIGHTS, f"where {component} comes from is to be looked up", look_again=0.0
            )
