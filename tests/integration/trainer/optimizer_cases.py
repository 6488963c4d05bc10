"""What runs on the ranks of a grid whose replicas may share out the optimizer's state. Each function gets the place."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from megatron.core.optimizer import clip_grads

from internvl_trainer.checkpoint import sharded
from internvl_trainer.checkpoint.checkpointer import Checkpointer
from internvl_trainer.contract.job import JobConfig
from internvl_trainer.engine.megatron import MegatronEngine
from internvl_trainer.engine.parallel import Place
from internvl_trainer.engine.protocol import ShardedStateDict, StepResult
from internvl_trainer.storage import open_store
from tests.integration.trainer.cases import spoil, state_after, step
from tests.integration.trainer.held import Held, held
from tests.integration.trainer.packs import IMAGE


class Story(NamedTuple):
    """One rank's part of a job that is saved, or resumed, in the middle."""

    at_checkpoint: Held
    then: list[StepResult]
    in_the_end: Held


def train(place: Place, jobs: list[JobConfig], steps: int) -> list[tuple[list[StepResult], Held]]:
    """Train each job from its own random start: its steps, and what the rank holds after them."""
    trained = []
    for job in jobs:
        engine = MegatronEngine(job, place, image_token=IMAGE)
        results = [step(engine, place, job, number) for number in range(steps)]
        trained.append((results, held(engine)))
    return trained


def train_by_fused_kernels(place: Place, job: JobConfig, steps: int) -> list[StepResult]:
    """Train where megatron's kernels over lists of tensors refuse an empty list, as those of CUDA libraries do."""
    with mock.patch.object(clip_grads, "multi_tensor_applier", _refusing_nothing(clip_grads.multi_tensor_applier)):
        ((results, _),) = train(place, [job], steps)
    return results


def save(place: Place, jobs: list[JobConfig], scratch: Path, *, before: int, after: int, earlier: bool) -> list[Story]:
    """Each job saves after some steps and goes on; `earlier`: what trainers saved while megatron made it up."""
    stories = []
    for job in jobs:
        engine = MegatronEngine(job, place, image_token=IMAGE)
        results = [step(engine, place, job, number) for number in range(before)]
        at_checkpoint = held(engine)
        source = partial(_by_megatron, engine) if earlier else engine.sharded_optimizer_state
        with mock.patch.object(engine, "sharded_optimizer_state", source):
            Checkpointer(job, open_store(), scratch).save(engine, state_after(results, job))
        stories.append(_go_on(engine, place, job, at_checkpoint, range(before, before + after)))
    return stories


def resume(place: Place, jobs: list[JobConfig], scratch: Path, *, after: int) -> list[Story]:
    """A new engine with spoilt weights resumes each job and does some steps."""
    stories = []
    for job in jobs:
        engine = MegatronEngine(job, place, image_token=IMAGE)
        spoil(engine)
        state = Checkpointer(job, open_store(), scratch).resume(engine)
        assert state is not None
        stories.append(_go_on(engine, place, job, held(engine), range(state.step, state.step + after)))
    return stories


def files_needed(place: Place, job: JobConfig, folder: Path) -> set[str]:
    """The files of a checkpoint in which this rank finds its optimizer's state."""
    engine = MegatronEngine(job, place, image_token=IMAGE)
    return set(sharded.ranges_of(folder, {"optimizer": engine.sharded_optimizer_state()}))


def _go_on(engine: MegatronEngine, place: Place, job: JobConfig, at_checkpoint: Held, steps: range) -> Story:
    results = [step(engine, place, job, number) for number in steps]
    return Story(at_checkpoint, results, held(engine))


def _refusing_nothing(apply: Callable[..., Any]) -> Callable[..., Any]:
    def refuse_or_apply(operation: Any, overflow: Any, lists: list[list[Any]], *arguments: Any) -> Any:
        assert all(lists), "tensor_lists[0].size() is not > 0"
        return apply(operation, overflow, lists, *arguments)

    return refuse_or_apply


def _by_megatron(engine: MegatronEngine) -> ShardedStateDict:
    return engine._optimizer.sharded_state_dict(engine.sharded_model_state())
