"""Loading model tensors from a verified checkpoint, at any layout: for the start of a stage and for evaluation."""

import logging
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch.distributed as dist

from internvl_trainer.checkpoint import sharded, transfer, verify
from internvl_trainer.checkpoint.components import check_same_shape
from internvl_trainer.checkpoint.peers import Peers
from internvl_trainer.checkpoint.sharded import LoadableModel, ShardedStateDict
from internvl_trainer.checkpoint.verify import Source
from internvl_trainer.contract.base import Component
from internvl_trainer.contract.catalog import ModelGeometry
from internvl_trainer.contract.manifest import Manifest, ManifestRef
from internvl_trainer.storage import ObjectStore

logger = logging.getLogger(__name__)


def load_model(
    ref: ManifestRef,
    model: LoadableModel,
    store: ObjectStore,
    scratch: Path,
    *,
    geometry: ModelGeometry,
    components: Iterable[Component] = tuple(Component),
) -> Manifest:
    """Load a model's weights, without optimizer, from the checkpoint or component manifest that `ref` names.

    Collective over the default process group, which may have one process; optimizer files are not downloaded.

    Args:
        ref: where the weights are; its digest is checked.
        model: an engine, or anything with its two model methods.
        store: opened for `ref.uri`.
        scratch: a folder on this node with room for the model files.
        geometry: the model's shape, which the checkpoint's must equal.
        components: the parts to load; all by default.

    Returns:
        the manifest of the checkpoint that the weights came from.

    Raises:
        InvalidCheckpointError: the checkpoint does not exist or does not verify.
        GeometryMismatchError, MissingTensorsError: it does not fit the model.
        StoreError: the store did not answer.
    """
    if not dist.is_initialized():
        raise RuntimeError("load_model needs a process group, of one process at least: call init_process_group first")
    wanted, transport = list(components), Transport(store, scratch, Peers.from_environment())
    sources = transport.peers.first(lambda: [verify.open_source(store, component, ref) for component in wanted])
    load_components(sources[0], wanted, model, geometry, transport)
    return sources[0].manifest


@dataclass(frozen=True)
class Transport:
    """Between the store and the processes of a job, by way of each node's scratch."""

    store: ObjectStore
    scratch: Path
    peers: Peers

    @contextmanager
    def fetched(self, source: Source, state: ShardedStateDict) -> Iterator[Path]:
        """A folder from which `load` can load `state`, or parts of it. Collective; errors as for `load_model`.

        Each node downloads, once, the files that hold what its processes ask for, and no others: at the layout that
        wrote a checkpoint these are about the files that the node itself wrote.
        """
        with self.peers.node_folder(self.scratch, "load") as folder:
            self.peers.each_node(lambda: self._download(source, sharded.INDEX_FILES, folder))
            mine = self.peers.each(lambda: sharded.files_of(folder, state))
            files = set().union(*self.peers.on_node(mine))
            self.peers.each_node(lambda: self._download(source, files, folder))
            yield folder

    def load(self, folder: Path, state: ShardedStateDict) -> ShardedStateDict:
        """What `state` asks for, loaded into its tensors from a fetched folder. Collective."""
        loaded = self.peers.each(lambda: sharded.load(state, folder))
        return {name: loaded[name] for name in state}

    def _download(self, source: Source, names: Collection[str], folder: Path) -> None:
        wanted = transfer.named(source.manifest, names)
        transfer.download_objects(self.store, source.ref.uri, wanted, folder)


def load_components(
    source: Source, components: list[Component], model: LoadableModel, geometry: ModelGeometry, transport: Transport
) -> None:
    """Load some components from one verified checkpoint; collective; errors as for `load_model`."""
    for component in components:
        check_same_shape(component, source=source.manifest.model, target=geometry, uri=source.ref.uri)
    asked = sharded.model_state(model, components)
    with transport.fetched(source, asked) as folder:
        model.load_model_state(transport.load(folder, asked))
    if transport.peers.is_first:
        logger.info("loaded %s from %s", ", ".join(components), source.ref.uri)
