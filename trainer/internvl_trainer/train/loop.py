"""The training loop of one stage."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Protocol

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

    def save(self, engine: Engine, state: TrainState) -> ManifestRef: ...
    def resume(self, engine: Engine) -> TrainState | None: ...
    def initialise(self, engine: Engine) -> None: ...
    def publish(self, ref: ManifestRef) -> list[str]: ...


class Observer(Protocol):
    """Who is told about steps and checkpoints."""

    def stepped(self, state: TrainState) -> None: ...
    def saved(self, state: TrainState, checkpoint: ManifestRef) -> None: ...


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
        should_stop: asked on all ranks after each step; answers the same on all.

    Raises:
        InterruptedTrainingError: `should_stop` said so; a checkpoint of the last whole step is committed.
        NonFiniteLossError, LossSpikeError: a step is not one to take; the last checkpoint stays the newest.
        TooManyBadSamplesError: more samples were unreadable than `data.max_bad_fraction` allows; as before.
    """
    state = checkpoints.resume(engine)
    if state is None:
        checkpoints.initialise(engine)
        state = FRESH
    saved: ManifestRef | None = None
    done = _is_done(job, state)
    with feed(state.data) as steps:
        while not done:
            state, saved = _step(job, engine, next(steps), state), None
            observer.stepped(state)
            done, stopping = _is_done(job, state), should_stop()
            if done or stopping or state.step % job.checkpoint.every_steps == 0:
                saved = checkpoints.save(engine, state)
                observer.saved(state, saved)
            if stopping and not done:
                raise InterruptedTrainingError(state.step, saved.uri if saved else "nothing")
    # A stage that was resumed at its end has no step left, and commits under its own attempt what it resumed.
    checkpoints.publish(saved or checkpoints.save(engine, state))
    return state


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
