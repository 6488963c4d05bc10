"""Words for the stories of the e2e tests: small runs, and what to wait for."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from tenacity import RetryError, Retrying, retry_if_result, stop_after_delay, wait_fixed

from hack.demo.kubectl import Kubectl
from hack.demo.recipe import LANGUAGE, PROJECTOR, VISION, Packing, Run, Stage
from internvl_operator.api.status import TrainingStatus
from internvl_operator.console.tables import message_of, status_of
from internvl_trainer.contract.manifest import ParallelLayout

RUN_SECONDS = 420.0
"""How long a small run of three stages may take on two busy cores."""

_PACKING = Packing(tokens=256, tiles=8, max_tiles=1)


def small_stage(name: str, *trainable: Any, steps: int = 8, **changes: Any) -> Stage:
    """A stage of a few quick steps that saves every second one."""
    stage = Stage(
        name, trainable, "stage1", steps=steps, peak_lr=1e-3, warmup_steps=1, checkpoint_every=2, packing=_PACKING
    )
    return replace(stage, **changes)


def small_run(name: str, *stages: Stage) -> Run:
    """A run with TP 2 over two pods of one process each."""
    chain = stages or (
        small_stage("stage1", PROJECTOR),
        # Long enough that a pod which is killed at its first checkpoint dies in the middle, also on a fast machine.
        small_stage("stage1-5", VISION, PROJECTOR, steps=60, checkpoint_every=5, publish=(VISION,)),
        small_stage("stage2", VISION, PROJECTOR, LANGUAGE),
    )
    return Run(
        name=name, model="tiny-1b-like", nodes=2, processes_per_node=1, layout=ParallelLayout(tensor=2),
        pretraining=chain[0], stages=chain,
    )  # fmt: skip


def wait_for(
    what: str, look: Callable[[], Any], *, seconds: float, every: float = 0.5, say: Callable[[], str] | None = None
) -> Any:
    """The first true answer of `look`. Fails the test, naming what was waited for, when it does not come in time."""
    try:
        return Retrying(
            retry=retry_if_result(lambda answer: not answer), wait=wait_fixed(every), stop=stop_after_delay(seconds)
        )(look)
    except RetryError:
        raise AssertionError(f"waited {seconds:.0f} s for {what}{f'; {say()}' if say else ''}") from None


def status(kubectl: Kubectl, name: str) -> TrainingStatus:
    """The run's status now."""
    return status_of(kubectl.get("internvltraining", name))


def wait_until(
    kubectl: Kubectl, name: str, what: str, true_of: Callable[[TrainingStatus], Any], *, seconds: float = RUN_SECONDS
) -> TrainingStatus:
    """The first status of a run that `true_of` holds for; fails at once when the run ended otherwise."""

    def look() -> TrainingStatus | None:
        seen = status(kubectl, name)
        if true_of(seen):
            return seen
        assert not seen.is_finished, f"{name} ended before {what}: {message_of(seen)}"
        return None

    answer: TrainingStatus = wait_for(
        f"{name}: {what}", look, seconds=seconds, say=lambda: message_of(status(kubectl, name))
    )
    return answer


def finished(kubectl: Kubectl, name: str, *, seconds: float = RUN_SECONDS) -> TrainingStatus:
    """The status of a run that has ended, one way or the other."""
    return wait_until(kubectl, name, "the end", lambda seen: seen.is_finished, seconds=seconds)


def children(kubectl: Kubectl, uid: str) -> dict[str, list[str]]:
    """Names of everything that belongs to a run, by kind."""
    return {
        kind: [item["metadata"]["name"] for item in kubectl.items(kind) if belongs_to(item, uid)]
        for kind in ("jobs", "pytorchjobs", "pods", "configmaps", "services")
    }


def belongs_to(item: Mapping[str, Any], uid: str) -> bool:
    """Whether an object is owned by the run, or carries its label."""
    metadata = item["metadata"]
    owners = {owner["uid"] for owner in metadata.get("ownerReferences", [])}
    return uid in owners or uid in (metadata.get("labels") or {}).values()
