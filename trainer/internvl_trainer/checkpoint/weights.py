"""Checkpoints of weights alone, committed and opened by one process, one tensor in memory at a time.

They are checkpoints like any other: a manifest, written last, that names each object with its digest. What training
adds to them, optimizer state and metrics, is not there.
"""

import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, Self

import torch

from internvl_trainer.checkpoint import commit
from internvl_trainer.checkpoint.components import by_component, components_in
from internvl_trainer.checkpoint.errors import CheckpointConflictError
from internvl_trainer.checkpoint.moving import Mover
from internvl_trainer.checkpoint.staging import SHARD_BYTES
from internvl_trainer.checkpoint.torch_dist_reader import TorchDistReader
from internvl_trainer.checkpoint.torch_dist_writer import TorchDistWriter, is_file_of_ours
from internvl_trainer.checkpoint.transfer import Transfers, Wanted, named
from internvl_trainer.checkpoint.verify import Source
from internvl_trainer.contract import keys
from internvl_trainer.contract.base import Component, RunIdentity
from internvl_trainer.contract.catalog import ModelGeometry
from internvl_trainer.contract.data_position import DataPosition
from internvl_trainer.contract.manifest import (
    DrawnWeights,
    ImportedWeights,
    Manifest,
    ManifestRef,
    ParallelLayout,
    StoredObject,
)
from internvl_trainer.contract.tensors import WholeTensor
from internvl_trainer.storage import ObjectStore

STAGE = "import"

PATIENCE = 60.0
"""Seconds for which an upload is tried again while the store does not answer."""


class Weight(NamedTuple):
    """A tensor that is to be written, and what gives its values when its turn comes."""

    tensor: WholeTensor
    load: Callable[[], torch.Tensor]


class Provenance(NamedTuple):
    """What a manifest says of imported weights."""

    run: RunIdentity
    """Not of a run: its uid is taken of the sources, so importing them again gives the same."""
    config_sha256: str
    model: ModelGeometry
    imported: dict[Component, ImportedWeights | DrawnWeights]


class Committed(NamedTuple):
    """A checkpoint that has come into being."""

    ref: ManifestRef
    manifest: Manifest


def check_destination(folder_uri: str, store: ObjectStore) -> None:
    """Whether a checkpoint may be written to a folder: it is empty, or holds what an import left that did not finish.

    Raises:
        CheckpointConflictError: it holds a checkpoint, or anything else.
        StoreError: the store did not answer.
    """
    prefix = f"{folder_uri.rstrip('/')}/"
    names = [info.uri.removeprefix(prefix) for info in store.list(prefix)]
    if keys.MANIFEST_NAME in names:
        raise CheckpointConflictError(f"{prefix} holds a checkpoint already; give a destination that does not exist")
    foreign = [name for name in names if not is_file_of_ours(name)]
    if foreign:
        raise CheckpointConflictError(
            f"{prefix} holds {len(foreign)} objects of something else, {foreign[0]} among them; "
            "give a destination that does not exist"
        )


def commit_weights(
    weights: Iterable[Weight],
    provenance: Provenance,
    folder_uri: str,
    store: ObjectStore,
    *,
    scratch: Path | None = None,
    shard_bytes: int = SHARD_BYTES,
    written: Callable[[torch.Tensor], None] = lambda values: None,
) -> Committed:
    """Write a checkpoint of weights to a folder of the store, shard by shard; its manifest makes it exist at the end.

    Args:
        weights: every tensor once; of a stack, every layer.
        provenance: for the manifest.
        folder_uri: where the manifest and its objects go.
        store: opened for it.
        scratch: a folder with room for two shards; the system's temporary folder by default.
        shard_bytes: size at which a new shard file is begun.
        written: told of each tensor that has been written.

    Raises:
        CheckpointConflictError: the folder is taken, or somebody else has committed it meanwhile.
        IncompleteTensorError: the weights are no whole stacks of layers of one shape and dtype.
        StoreError: the store did not answer.
    """
    check_destination(folder_uri, store)
    prefix = f"{folder_uri.rstrip('/')}/"
    store = store.with_traits(store.probe(prefix))
    with tempfile.TemporaryDirectory(prefix="internvl-import-", dir=scratch) as folder, _Uploads(store, prefix) as up:
        with TorchDistWriter(Path(folder), up.begin, shard_bytes=shard_bytes) as writer:
            for tensor, load in weights:
                values = load()
                writer.add(tensor, values)
                written(values)
                del values  # or it would stay until the next one has come
        objects = up.all()
    manifest = _manifest(provenance, writer.names, objects)
    uri = prefix + keys.MANIFEST_NAME
    commit.confirm(store, uri, manifest)
    return Committed(commit.put_manifest(store, uri, manifest.to_bytes()), manifest)


@contextmanager
def opened_weights(source: Source, store: ObjectStore, *, scratch: Path | None = None) -> Iterator[TorchDistReader]:
    """The tensors of a verified checkpoint, whatever process grid wrote it.

    A shard is downloaded whole when the first tensor needs it, and removed after the last one.

    Args:
        source: the checkpoint.
        store: opened for it.
        scratch: a folder with room for the shards that one tensor lies in, and those that later ones need again.

    Raises:
        InvalidCheckpointError: an object has other bytes than its writer hashed; also while reading.
        ShardError: the index cannot be read.
        StoreError: the store did not answer; also while reading.
    """

    def fetch(*names: str) -> None:
        wanted = [Wanted.whole(stored) for stored in named(source.manifest, names)]
        transfers.download(source.ref.uri, wanted, Path(folder))

    with tempfile.TemporaryDirectory(prefix="internvl-export-", dir=scratch) as folder, Transfers(store) as transfers:
        fetch(".metadata")
        yield TorchDistReader(Path(folder), fetch)


def _manifest(provenance: Provenance, names: Iterable[str], objects: Iterable[StoredObject]) -> Manifest:
    return Manifest(
        run=provenance.run,
        stage=STAGE,
        attempt=1,
        # No step of none is left: who asks for a final checkpoint may have this one.
        step=0,
        total_steps=0,
        tokens=0,
        data=DataPosition(),
        created_at=datetime.now(UTC),
        config_sha256=provenance.config_sha256,
        model=provenance.model,
        layout=ParallelLayout(),
        components=by_component(names),
        objects=tuple(sorted(objects, key=lambda stored: stored.key)),
        imported=provenance.imported,
    )


class _Uploads:
    """Uploads files one after the other while the next one is being written, and removes each afterwards."""

    def __init__(self, store: ObjectStore, prefix: str) -> None:
        self._mover = Mover(store)
        self._prefix = prefix
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="upload")
        self._pending: Future[StoredObject] | None = None
        self._done: list[StoredObject] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def begin(self, path: Path) -> None:
        """Upload a file once the one before is up; raises what went wrong with that."""
        self._wait()
        self._pending = self._pool.submit(self._upload, path)

    def all(self) -> list[StoredObject]:
        """All that has been uploaded, when it has been."""
        self._wait()
        return self._done

    def _wait(self) -> None:
        if self._pending is not None:
            self._done.append(self._pending.result())
            self._pending = None

    def _upload(self, path: Path) -> StoredObject:
        stored = self._mover.upload(path, self._prefix + path.name, time.monotonic() + PATIENCE)
        path.unlink()
        return stored.model_copy(update={"key": path.name, "components": components_in(path.name)})
