"""Saving, resuming and handing on checkpoints, by all processes of a job together.

A checkpoint exists from the moment its MANIFEST.json does. That is written last, by rank 0 alone, with a conditional
put, after every shard has been uploaded and is named in it with its digest: a job that dies before leaves objects that
nobody looks at. Keys carry the attempt, so a late upload of a dead attempt never touches the living one's, and a late
checkpoint of one does not count (contract/attempts.py).
"""

import logging
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from internvl_trainer.checkpoint import history, offers, state, transfer, verify
from internvl_trainer.checkpoint.components import OPTIMIZER, check_same_shape
from internvl_trainer.checkpoint.draft import random_state
from internvl_trainer.checkpoint.errors import (
    DataPositionError,
    InvalidCheckpointError,
    NotFinalError,
    NothingToSaveError,
    SeedError,
)
from internvl_trainer.checkpoint.history import History
from internvl_trainer.checkpoint.load import Transport, load_components
from internvl_trainer.checkpoint.origin import Origin, lineage_with
from internvl_trainer.checkpoint.peers import Peers
from internvl_trainer.checkpoint.saving import Saved, Saver
from internvl_trainer.checkpoint.sharded import Checkpointable
from internvl_trainer.checkpoint.state import StepMetrics, TrainState
from internvl_trainer.checkpoint.transfer import Transfers
from internvl_trainer.checkpoint.verify import Source
from internvl_trainer.contract import gate, keys
from internvl_trainer.contract.base import Component
from internvl_trainer.contract.exit_codes import DO_NOT_RETRY
from internvl_trainer.contract.gate import Candidate, Problem
from internvl_trainer.contract.job import JobConfig
from internvl_trainer.contract.manifest import ManifestRef
from internvl_trainer.storage import ObjectNotFoundError, ObjectStore, Traits

logger = logging.getLogger(__name__)

ABANDON_SECONDS = 60.0
"""How long a save that is under way may still take when training has failed, perhaps because a peer is gone."""


class Checkpointer:
    """The checkpoints of one attempt of one stage; a context manager, at whose end no save is under way any more.

    Making one and every method are collective: call them on all ranks, with the same arguments. A failure on any rank
    raises the same error on all: `CheckpointError`s for what is wrong with a checkpoint, `StoreError`s for the store.

    Args:
        job: this attempt's config.
        store: opened for `job.storage`. What it can do is found out here, with a few small writes.
        scratch: a folder on this node, with room for this node's shards (model and optimizer). What dead jobs have left
            there under `checkpoint-*` is removed.
    """

    def __init__(self, job: JobConfig, store: ObjectStore, scratch: Path) -> None:
        self._job = job
        self._peers = Peers.from_environment()
        self._store = store.with_traits(self._peers.first(lambda: _traits(job, store)))
        self._scratch = scratch
        self._transfers = Transfers(self._store, patience=job.checkpoint.patience_seconds)
        self._transport = Transport(self._transfers, scratch, self._peers)
        self._saver = Saver(job, self._store, self._transfers, scratch, self._peers)
        self._origin = None if job.init else Origin({}, ())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._saver.close()
        else:
            # What ends training for good is raised alike on all ranks, which then can still commit what is under way.
            agreed = getattr(error, "exit_code", None) in DO_NOT_RETRY
            self._saver.abandon(None if agreed else ABANDON_SECONDS)

    def begin_save(self, engine: Checkpointable, train_state: TrainState) -> None:
        """Take a checkpoint: training stands still for a copy in scratch, the rest goes on beside it.

        Where this attempt has committed the same step already, that checkpoint stays and nothing is uploaded. A save
        that is still under way is waited for first.

        Raises:
            NothingToSaveError: no step has been trained yet.
            ScratchError: scratch has no room.
            CheckpointError, StoreError: as `finish_saves`, of the save before.
        """
        if not train_state.metrics:
            raise NothingToSaveError(f"stage {self._job.stage} has trained no step yet; save after the first one")
        if self._origin is None:
            raise RuntimeError("a save came before initialise() or resume(): the stage's origin is unknown")
        self._saver.begin(engine, train_state, self._origin)

    def news(self) -> list[Saved]:
        """What has been committed since this was last asked. Not collective; errors as `finish_saves`."""
        return self._saver.news()

    def finish_saves(self) -> list[Saved]:
        """The same, once no save is under way any more.

        Raises:
            CheckpointConflictError: another checkpoint, or a damaged one, is committed under this attempt's key.
            ReplacedAttemptError: a later attempt of the stage has begun.
            StoreError: an upload failed in spite of retries. No checkpoint exists then.
        """
        return self._saver.finish()

    def save(self, engine: Checkpointable, train_state: TrainState) -> ManifestRef:
        """Take a checkpoint and wait until it is committed; errors as for the two methods that it consists of."""
        self.begin_save(engine, train_state)
        return self.finish_saves()[-1].ref

    def resume(self, engine: Checkpointable) -> TrainState | None:
        """Load the stage's newest checkpoint that verifies, of this attempt or an earlier one, at any layout.

        A checkpoint whose objects are missing or damaged is passed over, with the reason in the log. Where the attempt
        begins is written down, so what earlier attempts commit from now on does not count.

        Returns:
            where training stood, or None where the stage has no sound checkpoint: `initialise` then.

        Raises:
            GeometryMismatchError, MissingTensorsError: a sound checkpoint does not fit the job's model.
            DataPositionError, SeedError: a sound checkpoint was trained with another global batch or other seeds.
            StoreError: the store did not answer, so nobody knows what it holds.
        """
        found, seen = self._look_back(), set[str]()
        while fresh := [candidate for candidate in found.candidates if candidate.uri not in seen]:
            train_state = self._resume_from_any(engine, fresh, found)
            if train_state is not None:
                return train_state
            # An earlier attempt that lives on may have saved and pruned meanwhile.
            seen |= {candidate.uri for candidate in fresh}
            found = self._look_back()
        self._begin_attempt(found, None)
        return None

    def initialise(self, engine: Checkpointable) -> None:
        """Start the stage: load each component that `job.init` names from its source, and only that.

        Raises:
            InvalidCheckpointError: a source does not exist or does not verify.
            GeometryMismatchError: a source's component has another shape than the job's model.
            MissingTensorsError: a source lacks tensors of the component.
            StoreError: the store did not answer.
        """
        sources = self._peers.first(self._sources)
        for ref in dict.fromkeys(source.ref for source in sources.values()):
            components = [component for component, other in sources.items() if other.ref == ref]
            load_components(sources[components[0]], components, engine, self._job.model, self._transport)
        vision = sources.get(Component.VISION)
        self._origin = Origin(dict(self._job.init), lineage_with(*vision) if vision else ())

    def publish(self, ref: ManifestRef) -> list[str]:
        """Offer the components that `job.checkpoint.publish` names to other runs, from the stage's last checkpoint.

        Doing it again is no error.

        Returns:
            URIs of the component manifests.

        Raises:
            NotFinalError: the stage has steps left.
            CheckpointConflictError: this attempt has published something else.
        """
        return self._peers.first(lambda: [self._publish(ref, each) for each in self._job.checkpoint.publish])

    def _look_back(self) -> History:
        return self._peers.first(lambda: history.look_back(self._job, self._store))

    def _resume_from_any(
        self, engine: Checkpointable, candidates: Iterable[Candidate], found: History
    ) -> TrainState | None:
        """Load the first candidate that verifies; the others' faults are logged."""
        for candidate in candidates:
            source = self._peers.first(partial(self._inspect, candidate))
            try:
                if isinstance(source, Source):
                    train_state = self._resume_from(engine, source)
                    self._begin_attempt(found, source)
                    return train_state
                raise InvalidCheckpointError.of(candidate.uri, source)
            except InvalidCheckpointError as error:
                if self._peers.is_first:
                    logger.warning("passing over a checkpoint: %s", error)
        return None

    def _begin_attempt(self, found: History, source: Source | None) -> None:
        resumed = (source.ref, source.manifest.step) if source else None
        self._peers.first(lambda: history.begin_attempt(self._job, self._store, found, resumed))

    def _inspect(self, candidate: Candidate) -> Source | tuple[Problem, ...]:
        expected = verify.expected_by_key(candidate.uri, self._job.run.uid)
        try:
            return verify.open_checkpoint(self._store, candidate.uri, expected)
        except ObjectNotFoundError:
            # Removed between the listing and now, by whoever keeps the store tidy.
            return (gate.MissingObject(keys.MANIFEST_NAME, 0),)

    def _resume_from(self, engine: Checkpointable, source: Source) -> TrainState:
        manifest = source.manifest
        for component in Component:
            check_same_shape(component, source=manifest.model, target=self._job.model, uri=source.ref.uri)
        self._check_data_position(source)
        self._check_seeds(source)
        metrics = self._peers.first(lambda: self._metrics(source))
        model = engine.sharded_model_state()
        optimizer = {OPTIMIZER: engine.sharded_optimizer_state()}
        with self._transport.fetched(source, model | optimizer) as folder:
            # The model first, and wholly: an optimizer derives its float32 weights from the model's when these are
            # loaded, which would undo what had been loaded into them before.
            engine.load_model_state(self._transport.load(folder, model))
            engine.load_optimizer_state(self._transport.load(folder, optimizer)[OPTIMIZER])
        self._origin = Origin(manifest.parents, manifest.vision_lineage, source.ref)
        if self._peers.is_first:
            logger.info("resumed from %s at step %d of %d", source.ref.uri, manifest.step, manifest.total_steps)
        return TrainState(manifest.step, manifest.tokens, manifest.data, metrics)

    def _check_data_position(self, source: Source) -> None:
        step, packs = source.manifest.step, source.manifest.data.packs
        batch = self._job.optimization.global_batch
        if packs != step * batch:
            raise DataPositionError(
                f"{source.ref.uri} has consumed {packs} packs in {step} steps, but at this job's global batch of "
                f"{batch} they are {step * batch}; give the stage the global batch that it began with, or start a new "
                "run whose spec.weights names this manifest"
            )

    def _check_seeds(self, source: Source) -> None:
        theirs, ours = source.manifest.random, random_state(self._job)
        if theirs is not None and theirs != ours:
            raise SeedError(
                f"{source.ref.uri} was trained with seed {theirs.seed} and data seed {theirs.data_seed}, this job has "
                f"{ours.seed} and {ours.data_seed}: the rest of the stage would not follow from its beginning; give "
                "the stage the seeds that it began with, or start a new run whose spec.weights names this manifest"
            )

    def _metrics(self, source: Source) -> tuple[StepMetrics, ...]:
        payload = transfer.read_object(self._store, source.ref.uri, source.manifest, keys.METRICS_NAME)
        return state.from_lines(payload)

    def _sources(self) -> dict[Component, Source]:
        return {component: verify.open_source(self._store, component, ref) for component, ref in self._job.init.items()}

    def _publish(self, ref: ManifestRef, component: Component) -> str:
        source = verify.open_source(self._store, component, ref)
        manifest = source.manifest
        if not manifest.is_final:
            raise NotFinalError(f"{ref.uri} is of step {manifest.step} of {manifest.total_steps}; publish the last one")
        storage, run = self._job.storage.uri, self._job.run
        uri = keys.component_uri(storage, run.uid, self._job.stage, self._job.attempt, component)
        offers.put_offer(self._store, uri, offers.offer_of(source, component))
        logger.info("published %s as %s", component, uri)
        return uri


def _traits(job: JobConfig, store: ObjectStore) -> Traits:
    """What the store can do, said aloud; what the config says of checksums counts more than the probe."""
    traits = store.probe(keys.run_prefix(job.storage.uri, job.run.uid))
    if job.storage.checksums != "auto":
        traits = traits._replace(checksum=None if job.storage.checksums == "none" else job.storage.checksums)
    level = logging.INFO if traits.conditional_writes else logging.WARNING
    logger.log(level, "object store of %s: %s", job.storage.uri, traits)
    return traits
