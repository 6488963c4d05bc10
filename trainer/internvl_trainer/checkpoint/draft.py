"""What the manifest of a save says: pure."""

import hashlib
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from internvl_trainer.checkpoint.components import by_component
from internvl_trainer.checkpoint.origin import Origin
from internvl_trainer.checkpoint.state import TrainState
from internvl_trainer.contract.job import JobConfig
from internvl_trainer.contract.manifest import LossSummary, Manifest, RandomState, SaveTimes, StoredObject


def config_sha256(job: JobConfig) -> str:
    """The digest by which a checkpoint knows the config that it was trained with."""
    return hashlib.sha256(job.to_bytes()).hexdigest()


def random_state(job: JobConfig) -> RandomState:
    """All that a stage's randomness follows from, besides how far it has come."""
    return RandomState(seed=job.optimization.seed, data_seed=job.data.seed)


def draft_manifest(
    job: JobConfig,
    train_state: TrainState,
    origin: Origin,
    tensors: Iterable[str],
    objects: Sequence[StoredObject],
    times: SaveTimes,
) -> Manifest:
    """The manifest of a checkpoint whose objects have been uploaded.

    Args:
        job: this attempt's config.
        train_state: where training stood.
        origin: where the stage's components came from.
        tensors: names of all tensors and objects.
        objects: what was uploaded.
        times: what it cost.
    """
    settings = job.optimization
    is_done = settings.is_done(step=train_state.step, tokens=train_state.tokens)
    return Manifest(
        run=job.run,
        stage=job.stage,
        attempt=job.attempt,
        step=train_state.step,
        # A stage that its tokens ended has no step left, however many its config allows.
        total_steps=train_state.step if is_done else settings.steps,
        tokens=train_state.tokens,
        data=train_state.data,
        random=random_state(job),
        learning_rate=train_state.metrics[-1].learning_rate,
        created_at=datetime.now(UTC),
        config_sha256=config_sha256(job),
        model=job.model,
        layout=job.layout,
        trainable=job.trainable,
        components=by_component(tensors),
        objects=tuple(sorted(objects, key=lambda stored: stored.key)),
        loss=LossSummary(
            first=train_state.metrics[0].loss,
            last=train_state.metrics[-1].loss,
            steps=len(train_state.metrics),
        ),
        resumed_from=origin.resumed_from,
        parents=origin.parents,
        vision_lineage=origin.vision_lineage,
        times=times,
    )
