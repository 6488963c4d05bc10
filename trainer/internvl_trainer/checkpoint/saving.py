"""Saving beside training: a copy in scratch while training stands still, upload and commit while it goes on.

Every rank has one thread for this, and the threads of all ranks have a process group of their own: they agree on each
save in the order in which training began them, whatever training's own groups do meanwhile.
"""

import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

from internvl_trainer.checkpoint import commit, index, sharded, state, verify
from internvl_trainer.checkpoint.components import STATE, components_in
from internvl_trainer.checkpoint.draft import config_sha256, draft_manifest
from internvl_trainer.checkpoint.errors import (
    CheckpointConflictError,
    InvalidCheckpointError,
    TransferProcessDiedError,
)
from internvl_trainer.checkpoint.index import PlacedObject
from internvl_trainer.checkpoint.moving import patiently
from internvl_trainer.checkpoint.origin import Origin
from internvl_trainer.checkpoint.peers import Peers
from internvl_trainer.checkpoint.prune import prune
from internvl_trainer.checkpoint.sharded import Checkpointable
from internvl_trainer.checkpoint.staging import Piece, Placed, Staging, lay_out
from internvl_trainer.checkpoint.state import TrainState
from internvl_trainer.checkpoint.transfer import Transfers
from internvl_trainer.checkpoint.verify import Source
from internvl_trainer.contract import keys
from internvl_trainer.contract.attempts import NewestCheckpoint
from internvl_trainer.contract.gate import Candidate
from internvl_trainer.contract.job import CONFIG_FILE, JobConfig
from internvl_trainer.contract.manifest import Manifest, ManifestRef, SaveTimes, StoredObject
from internvl_trainer.storage import ObjectNotFoundError, ObjectStore

logger = logging.getLogger(__name__)


class Saved(NamedTuple):
    """A checkpoint that has been committed."""

    step: int
    ref: ManifestRef
    times: SaveTimes


@dataclass(frozen=True)
class Staged:
    """One save between its copy and its commit.

    Attributes:
        train_state: at the moment of the copy.
        origin: of the stage.
        objects: where all ranks have put what is no tensor; on rank 0.
        waited, copied: seconds.
    """

    train_state: TrainState
    origin: Origin
    objects: tuple[PlacedObject, ...]
    waited: float
    copied: float


class Saver:
    """The saves of one attempt. All methods are collective, and called in one thread.

    Args:
        job: this attempt's config.
        store: opened for `job.storage`, its traits known.
        transfers: of that store; closed with this.
        scratch: a folder on this node with room for this node's shards.
        peers: of the calling thread.
    """

    def __init__(self, job: JobConfig, store: ObjectStore, transfers: Transfers, scratch: Path, peers: Peers) -> None:
        self._job = job
        self._store = store
        self._peers = peers
        self._background = peers.twin()
        self._exit = ExitStack()
        self._transfers = self._exit.enter_context(transfers)
        self._thread = self._exit.enter_context(ThreadPoolExecutor(1, thread_name_prefix="checkpoint"))
        self._claim = peers.claim(scratch, "save")
        self._folder = self._claim.path
        self._placed: list[Placed] = []
        self._everyones: list[Placed] = []
        self._staging: Staging | None = None
        self._pending: Future[Saved] | None = None
        self._pruning: Future[list[Candidate]] | None = None
        self._news: list[Saved] = []
        self._announced: str | None = None

    def begin(self, engine: Checkpointable, train_state: TrainState, origin: Origin) -> None:
        """Copy what is to be saved, and return; a save that is still under way is waited for first.

        Raises:
            ScratchError: there is no room for the shards.
            CheckpointError, StoreError: the save before this one has failed.
        """
        begun = time.monotonic()
        self._wait()
        waited = time.monotonic()
        staged = self._stage(engine, train_state, origin, begun, waited)
        self._pending = self._thread.submit(self._commit, staged)
        if self._peers.is_first:
            # After it, in the same thread: nobody waits for what is removed.
            self._pruning = self._thread.submit(prune, self._job, self._store)

    def news(self) -> list[Saved]:
        """What has been committed since this was last asked; raises what has gone wrong."""
        if self._pending is not None and self._pending.done():
            self._wait()
        news, self._news = self._news, []
        return news

    def finish(self) -> list[Saved]:
        """The same, once nothing is under way any more."""
        self._wait()
        return self.news()

    def close(self) -> None:
        """Wait for what is under way, and remove the shards."""
        self._wait()
        if self._pruning is not None:
            self._pruning.result()
        self._peers.each(lambda: None)  # nobody removes what a process of the same node still has
        self._release()

    def abandon(self, seconds: float | None) -> None:
        """Close after an error, when other processes may be gone. Not collective.

        Args:
            seconds: how long a save that is under way may still take; None: as long as it takes.
        """
        pending, self._pending = self._pending, None
        try:
            if pending is not None:
                saved = pending.result(seconds)
                logger.info(
                    "the checkpoint of step %d, which was under way, is committed: %s", saved.step, saved.ref.uri
                )
        except Exception as error:  # noqa: BLE001  (the error that ends training must not be lost for this one)
            logger.warning("a checkpoint was under way and is not committed: %s: %s", type(error).__name__, error)
            self._thread.shutdown(wait=False, cancel_futures=True)
            self._transfers.abandon()
        else:
            self._release()

    def _release(self) -> None:
        self._exit.close()
        if self._staging is not None:
            self._staging.close()
            self._staging = None
        self._claim.release()

    def _wait(self) -> None:
        pending, self._pending = self._pending, None
        if pending is not None:
            self._news.append(pending.result())

    def _stage(
        self, engine: Checkpointable, train_state: TrainState, origin: Origin, begun: float, waited: float
    ) -> Staged:
        mine = sharded.saveable(engine, rank=self._peers.rank, validate=self._staging is None)
        self._make_room(mine.pieces)
        assert self._staging is not None
        self._staging.fill(mine.tensors)
        objects = self._peers.each(lambda: self._write_objects(mine.objects))
        everyones_objects = tuple(each for rank in self._peers.to_first(objects) for each in rank)
        copied = time.monotonic()
        return Staged(train_state, origin, everyones_objects, waited - begun, copied - waited)

    def _make_room(self, pieces: Sequence[Piece]) -> None:
        """Lay the pieces out, or leave all as it is where they are those of the save before."""
        changed = self._staging is None or [each.piece for each in self._placed] != list(pieces)
        if not any(self._peers.all(changed)):
            return

        def stage() -> None:
            if self._staging is not None:
                self._staging.close()
            self._placed = lay_out(pieces, self._peers.rank)
            self._staging = Staging(self._folder, self._placed)

        self._peers.each(stage)
        self._everyones = [each for rank in self._peers.to_first(self._placed) for each in rank]

    def _write_objects(self, objects: dict[str, bytes]) -> list[PlacedObject]:
        """Write what is no tensor to a file of its own: a few bytes, of another length each time."""
        if not objects:
            return []
        file = f"{STATE}__{self._peers.rank}_0.distcp"
        placed, begin = [], 0
        with (self._folder / file).open("wb") as sink:
            for key, payload in objects.items():
                sink.write(payload)
                placed.append(PlacedObject(key, file, begin, len(payload)))
                begin += len(payload)
        return placed

    def _commit(self, staged: Staged) -> Saved:
        """Upload and commit what all ranks have staged; runs beside training, on all ranks in the same order."""
        job, step = self._job, staged.train_state.step
        uri = keys.manifest_uri(*self._place, step, job.attempt)
        # The first exchange is also the moment when every process of the node has copied its part.
        earlier = self._background.first(lambda: self._patiently(self._committed_before, uri, staged.train_state))
        if earlier is not None:
            return Saved(step, earlier, SaveTimes(waited=staged.waited, copied=staged.copied, uploaded=0.0))
        begun = time.monotonic()
        uploads = self._background.each_node(lambda: self._upload(uri, staged))
        times = SaveTimes(waited=staged.waited, copied=staged.copied, uploaded=time.monotonic() - begun)
        objects = [stored for upload in uploads for stored in upload]
        ref = self._background.first(lambda: self._put_manifest(uri, staged, objects, times))
        if self._peers.is_first:
            logger.info(
                "committed checkpoint %s: %d objects, %.1f MB; training stood still for %.2f s "
                "(%.2f s of it for the checkpoint before); uploaded beside training in %.2f s",
                *(uri, len(objects), sum(stored.size for stored in objects) / 1e6),
                *(times.waited + times.copied, times.waited, times.uploaded),
            )
        return Saved(step, ref, times)

    def _patiently[**P, T](self, action: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Try again while the store does not answer: whatever a save asks of it may be asked twice."""
        return patiently(partial(action, *args, **kwargs), time.monotonic() + self._job.checkpoint.patience_seconds)

    @property
    def _place(self) -> tuple[str, str, str]:
        return self._job.storage.uri, self._job.run.uid, self._job.stage

    def _committed_before(self, uri: str, train_state: TrainState) -> ManifestRef | None:
        """What this attempt has committed of this step already, when it has been started again."""
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
        ours = (config_sha256(self._job), train_state.tokens, train_state.data)
        theirs = (found.config_sha256, found.tokens, found.data)
        if theirs != ours:
            raise CheckpointConflictError(
                f"{uri} is committed already with (config, tokens, data position) {theirs}, this process has {ours}; "
                f"attempt {self._job.attempt} runs twice or ran with another config: start it with a new number"
            )
        logger.info("checkpoint %s is committed already", uri)
        return source.ref

    def _upload(self, uri: str, staged: Staged) -> list[StoredObject]:
        if self._peers.is_first:
            contents = index.index_files(self._everyones, staged.objects) | {
                keys.METRICS_NAME: state.to_lines(staged.train_state.metrics),
                CONFIG_FILE: self._job.to_bytes(),
            }
            for name, content in contents.items():
                (self._folder / name).write_bytes(content)
        files = {path.name: path for path in self._folder.iterdir()}
        try:
            stored = self._transfers.upload(files, keys.folder_of(uri))
        except TransferProcessDiedError as error:
            # Whoever stops a job may signal all its processes at once: the last save must not be lost by that.
            logger.warning("uploading once more with new processes: %s", error)
            stored = self._transfers.upload(files, keys.folder_of(uri))
        return [each.model_copy(update={"components": components_in(each.key)}) for each in stored]

    def _put_manifest(self, uri: str, staged: Staged, objects: Sequence[StoredObject], times: SaveTimes) -> ManifestRef:
        tensors = {each.piece.key for each in self._everyones} | {each.key for each in staged.objects}
        # Drafted once: the same bytes are written however often it takes.
        manifest = draft_manifest(self._job, staged.train_state, staged.origin, tensors, objects, times)
        return self._patiently(self._try_to_put, uri, manifest)

    def _try_to_put(self, uri: str, manifest: Manifest) -> ManifestRef:
        commit.confirm(self._store, uri, manifest)
        commit.check_not_replaced(self._store, keys.attempts_prefix(*self._place), self._job.attempt)
        # Before the manifest: no checkpoint exists that a listing which is behind could hide.
        resumed = manifest.resumed_from
        before = self._announced or (resumed.uri if resumed else None)
        hint = NewestCheckpoint(manifests=(uri, *([before] if before else ())))
        commit.write_over(self._store, keys.newest_uri(*self._place, self._job.attempt), hint.to_bytes())
        ref = commit.put_manifest(self._store, uri, manifest.to_bytes())
        self._announced = uri
        return ref
