"""Saving, resuming and handing on checkpoints, by all processes of a job together.

A checkpoint exists from the moment its MANIFEST.json does. That is written last, by rank 0 alone, with a conditional
put, after every shard has been uploaded and is named in it with its digest: a job that dies before leaves objects that
nobody looks at. Keys carry the attempt, so a late upload of a dead attempt never touches the living one's.
"""

import hashlib
import logging
import time
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from internvl_trainer.checkpoint import sharded, state, transfer, verify
from internvl_trainer.checkpoint.components import OPTIMIZER, by_component, check_same_shape
from internvl_trainer.checkpoint.errors import (
    CheckpointConflictError,
    DataPositionError,
    InvalidCheckpointError,
    NotFinalError,
    NothingToSaveError,
)
from internvl_trainer.checkpoint.load import Transport, load_components
from internvl_trainer.checkpoint.origin import Origin, lineage_with
from internvl_trainer.checkpoint.peers import Peers
from internvl_trainer.checkpoint.sharded import Checkpointable
from internvl_trainer.checkpoint.state import StepMetrics, TrainState
from internvl_trainer.checkpoint.verify import Source
from internvl_trainer.contract import gate, keys
from internvl_trainer.contract.base import Component
from internvl_trainer.contract.gate import Candidate, Problem
from internvl_trainer.contract.job import CONFIG_FILE, JobConfig
from internvl_trainer.contract.manifest import ComponentManifest, LossSummary, Manifest, ManifestRef, StoredObject
from internvl_trainer.storage import AlreadyExistsError, ObjectNotFoundError, ObjectStore

logger = logging.getLogger(__name__)


class Checkpointer:
    """The checkpoints of one attempt of one stage.

    Making one and every method are collective: call them on all ranks, with the same arguments. A failure on any rank
    raises the same error on all: `CheckpointError`s for what is wrong with a checkpoint, `StoreError`s for the store.

    Args:
        job: this attempt's config.
        store: opened for `job.storage`.
        scratch: a folder on this node, with room for this node's shards (model and optimizer). Its content under
            `checkpoint-*` is removed.
    """

    def __init__(self, job: JobConfig, store: ObjectStore, scratch: Path) -> None:
        self._job = job
        self._store = store
        self._scratch = scratch
        self._peers = Peers.from_environment()
        self._transport = Transport(store, scratch, self._peers)
        self._origin = None if job.init else Origin({}, ())

    def save(self, engine: Checkpointable, train_state: TrainState) -> ManifestRef:
        """Commit a checkpoint; training stands still meanwhile, and the log says for how long.

        Where this attempt has committed the same step already, its manifest is returned and nothing is uploaded.

        Raises:
            NothingToSaveError: no step has been trained yet.
            CheckpointConflictError: another checkpoint, or a damaged one, is committed under this attempt's key.
            StoreError: an upload failed in spite of retries. No checkpoint exists then.
        """
        if not train_state.metrics:
            raise NothingToSaveError(f"stage {self._job.stage} has trained no step yet; save after the first one")
        if self._origin is None:
            raise RuntimeError("save() came before initialise() or resume(): the stage's origin is unknown")
        begun = time.monotonic()
        uri = keys.manifest_uri(*self._stage_key, train_state.step, self._job.attempt)
        committed = self._peers.first(lambda: self._committed(uri, train_state))
        if committed:
            return committed
        with self._peers.node_folder(self._scratch, "save") as folder:
            sharded.write(engine, folder)
            written = time.monotonic()
            uploads = self._peers.each_node(lambda: self._upload(folder, uri, train_state))
            uploaded = time.monotonic()
            objects = [stored for upload in uploads for stored in upload]
            draft = partial(self._manifest, folder, train_state, objects, self._origin)
            ref = self._peers.first(lambda: self._commit(uri, draft().to_bytes()))
        if self._peers.is_first:
            logger.info(
                "committed checkpoint %s: %d objects, %.1f MB; training stood still for %.2f s "
                "(%.2f s writing shards, %.2f s uploading)",
                *(uri, len(objects), sum(stored.size for stored in objects) / 1e6),
                *(time.monotonic() - begun, written - begun, uploaded - written),
            )
        return ref

    def resume(self, engine: Checkpointable) -> TrainState | None:
        """Load the stage's newest checkpoint that verifies, of this attempt or an earlier one, at any layout.

        A checkpoint whose objects are missing or damaged is passed over, with the reason in the log.

        Returns:
            where training stood, or None where the stage has no sound checkpoint: `initialise` then.

        Raises:
            GeometryMismatchError, MissingTensorsError: a sound checkpoint does not fit the job's model.
            DataPositionError: a sound checkpoint was trained with another global batch.
            StoreError: the store did not answer, so nobody knows what it holds.
        """
        for candidate in self._peers.first(self._candidates):
            found = self._peers.first(partial(self._inspect, candidate))
            try:
                if isinstance(found, Source):
                    return self._resume_from(engine, found)
                raise InvalidCheckpointError.of(candidate.uri, found)
            except InvalidCheckpointError as error:
                if self._peers.is_first:
                    logger.warning("passing over a checkpoint: %s", error)
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

    @property
    def _stage_key(self) -> tuple[str, str, str]:
        return self._job.storage.uri, self._job.run.uid, self._job.stage

    def _committed(self, uri: str, train_state: TrainState) -> ManifestRef | None:
        try:
            source = verify.open_checkpoint(self._store, uri, verify.expected_by_key(uri, self._job.run.uid))
        except ObjectNotFoundError:
            return None
        if not isinstance(source, Source):
            raise CheckpointConflictError(
                f"{InvalidCheckpointError.of(uri, source)}. It is committed and is never written again: attempt "
                f"{self._job.attempt} cannot go on, start it with a new number"
            )
        found = source.manifest
        ours = (self._config_sha256, train_state.tokens, train_state.data)
        theirs = (found.config_sha256, found.tokens, found.data)
        if theirs != ours:
            raise CheckpointConflictError(
                f"{uri} is committed already with (config, tokens, data position) {theirs}, this process has {ours}; "
                f"attempt {self._job.attempt} runs twice or ran with another config: start it with a new number"
            )
        logger.info("checkpoint %s is committed already", uri)
        return source.ref

    @property
    def _config_sha256(self) -> str:
        return hashlib.sha256(self._job.to_bytes()).hexdigest()

    def _upload(self, folder: Path, uri: str, train_state: TrainState) -> list[StoredObject]:
        if self._peers.is_first:
            (folder / keys.METRICS_NAME).write_bytes(state.to_lines(train_state.metrics))
            (folder / CONFIG_FILE).write_bytes(self._job.to_bytes())
        return transfer.upload_folder(self._store, folder, _folder_of(uri))

    def _commit(self, uri: str, payload: bytes) -> ManifestRef:
        try:
            self._store.put_if_absent(uri, payload)
        except AlreadyExistsError as error:
            # The answer to our own put may have been lost, and the put retried.
            if self._store.read(uri) != payload:
                raise CheckpointConflictError(
                    f"{uri} was committed by another process meanwhile; attempt {self._job.attempt} runs twice"
                ) from error
        return _ref(uri, payload)

    def _manifest(self, folder: Path, train_state: TrainState, objects: list[StoredObject], origin: Origin) -> Manifest:
        job, settings = self._job, self._job.optimization
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
            created_at=datetime.now(UTC),
            config_sha256=self._config_sha256,
            model=job.model,
            layout=job.layout,
            trainable=job.trainable,
            components=by_component(sharded.tensor_names(folder)),
            objects=tuple(sorted(objects, key=lambda stored: stored.key)),
            loss=LossSummary(
                first=train_state.metrics[0].loss,
                last=train_state.metrics[-1].loss,
                steps=len(train_state.metrics),
            ),
            parents=origin.parents,
            vision_lineage=origin.vision_lineage,
        )

    def _candidates(self) -> list[Candidate]:
        listing = self._store.list(keys.stage_prefix(*self._stage_key))
        uris = (info.uri for info in listing)
        return gate.candidates(uris, stage=self._job.stage, max_attempt=self._job.attempt)

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
        metrics = self._peers.first(lambda: self._metrics(source))
        model = engine.sharded_model_state()
        optimizer = {OPTIMIZER: engine.sharded_optimizer_state()}
        with self._transport.fetched(source, model | optimizer) as folder:
            # The model first, and wholly: an optimizer derives its float32 weights from the model's when these are
            # loaded, which would undo what had been loaded into them before.
            engine.load_model_state(self._transport.load(folder, model))
            engine.load_optimizer_state(self._transport.load(folder, optimizer)[OPTIMIZER])
        self._origin = Origin(manifest.parents, manifest.vision_lineage)
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
        uri = keys.component_uri(*self._stage_key, self._job.attempt, component)
        offer = ComponentManifest(
            component=component,
            source=ref,
            run=manifest.run,
            stage=manifest.stage,
            attempt=manifest.attempt,
            step=manifest.step,
            created_at=datetime.now(UTC),
            vision=manifest.model.vision,
            tensors=manifest.components[component],
            lineage=lineage_with(*source) if component is Component.VISION else (),
        )
        try:
            self._store.put_if_absent(uri, offer.to_bytes())
        except AlreadyExistsError as error:
            present = verify.read_component_manifest(self._store, uri)
            if present is None or present.model_copy(update={"created_at": offer.created_at}) != offer:
                raise CheckpointConflictError(f"{uri} offers something else than {ref.uri}") from error
        logger.info("published %s as %s", component, uri)
        return uri


def _ref(uri: str, payload: bytes) -> ManifestRef:
    return ManifestRef(uri=uri, sha256=hashlib.sha256(payload).hexdigest())


def _folder_of(uri: str) -> str:
    return uri.rpartition("/")[0] + "/"
