"""The training loop of one stage."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from internvl_trainer.checkpoint.saving import Saved
from internvl_trainer.checkpoint.state import StepMetrics, TrainState
from internvl_trainer.contract.data_position import DataPosition
from internvl_trainer.contract.job import JobConfig
from internvl_trainer.contract.manifest import ManifestRef
from internvl_trainer.engine.protocol import Engine
from internvl_trainer.train.batches import Batch
from internvl_trainer.train.interrupt import InterruptedTrainingError
from internvl_trainer.train.lr import cosine
from internvl_trainer.train.skips import check_budget
from internvl_trainer.train.spike import loss_limit

FRESH = TrainState(step=0, tokens=0, data=DataPosition(), metrics=())


class Checkpoints(Protocol):
    """What the loop needs of a Checkpointer."""

    def begin_save(self, engine: Engine, state: TrainState) -> None: ...
    def news(self) -> list[Saved]: ...
    def finish_saves(self) -> list[Saved]: ...
    def resume(self, engine: Engine) -> TrainState | None: ...
    def initialise(self, engine: Engine) -> None: ...
    def publish(self, ref: ManifestRef) -> list[str]: ...


class Observer(Protocol):
    """Who is told about steps and checkpoints."""

    def stepped(self, state: TrainState) -> None: ...
    def saved(self, saved: Saved) -> None: ...


def train(
    job: JobConfig,
    engine: Engine,
    checkpoints: Checkpoints,
    feed: Callable[[DataPosition], AbstractContextManager[Iterator[Batch]]],
    observer: Observer,
    should_stop: Callable[[], bool],
) -> TrainState:
    """Train a stage from where it stands to its end, and publish what it has to publish. Collective.

    The stage ends with the step in which its tokens reach `optimization.stop_after_tokens`, or with the last of
    `optimization.steps`; the learning rate follows its own schedule, whichever comes first.

    Args:
        feed: this rank's packs of each step, from a position in the data on.
        should_stop: asked on all ranks before the first step and after each; answers the same on all.

    Raises:
        InterruptedTrainingError: `should_stop` said so; a checkpoint of the last whole step is committed, if one was
            trained.
        NonFiniteLossError, LossSpikeError: a step is not one to take; the last checkpoint stays the newest.
        TooManyBadSamplesError: more samples were unreadable than `data.max_bad_fraction` allows; as before.
    """
    state = checkpoints.resume(engine)
    if state is None:
        checkpoints.initialise(engine)
        state = FRESH
    done, stopping, begun = _is_done(job, state), should_stop(), state.step
    with feed(state.data) as steps:
        while not (done or stopping):
            state = _step(job, engine, next(steps), state)
            observer.stepped(state)
            _tell(observer, checkpoints.news())
            done, stopping = _is_done(job, state), should_stop()
            if not (done or stopping) and state.step % job.checkpoint.every_steps == 0:
                checkpoints.begin_save(engine, state)
    if stopping and not done and state.step == begun:
        raise InterruptedTrainingError(state.step, "nothing: no step was trained")
    # A stage that was resumed at its end has no step left, and commits under its own attempt what it resumed.
    checkpoints.begin_save(engine, state)
    saves = checkpoints.finish_saves()
    _tell(observer, saves)
    if not done:
        raise InterruptedTrainingError(state.step, saves[-1].ref.uri)
    checkpoints.publish(saves[-1].ref)
    return state


def _tell(observer: Observer, saves: Sequence[Saved]) -> None:
    for saved in saves:
        observer.saved(saved)


def _is_done(job: JobConfig, state: TrainState) -> bool:
    return job.optimization.is_done(step=state.step, tokens=state.tokens)


def _step(job: JobConfig, engine: Engine, batch: Batch, state: TrainState) -> TrainState:
    settings = job.optimization
    rate = cosine(
        state.step,
        peak=settings.peak_lr,
        warmup_steps=settings.warmup_steps,
        total_steps=settings.schedule_steps or settings.steps,
        minimum=settings.min_lr,
    )
    begun = time.monotonic()
    limit = loss_limit(state.metrics, settings.spike_limit)
    result = engine.train_step(batch.packs, rate, state.step, loss_limit=limit)
    # What the steps before have skipped was not known when this one's packs were put together.
    position = batch.position.model_copy(update={"skipped": state.data.skipped + result.skipped})
    check_budget(position, job.data.max_bad_fraction)
    metrics = StepMetrics(
        step=state.step + 1,
        loss=result.loss,
        grad_norm=result.grad_norm,
        learning_rate=rate,
        tokens=result.tokens,
        tiles=result.tiles,
        skipped=result.skipped,
        seconds=time.monotonic() - begun,
    )
    return TrainState(
        step=metrics.step,
        tokens=state.tokens + result.tokens,
        data=position,
        metrics=(*state.metrics, metrics),
    )
