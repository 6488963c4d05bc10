"""Loading model tensors from a verified checkpoint, at any layout: for the start of a stage and for evaluation."""

import logging
from collections.abc import Iterable
from pathlib import Path

import torch.distributed as dist

from internvl_trainer.checkpoint import sharded, transfer, verify
from internvl_trainer.checkpoint.components import check_same_shape
from internvl_trainer.checkpoint.peers import Peers
from internvl_trainer.checkpoint.sharded import LoadableModel
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
    wanted, peers = list(components), Peers.from_environment()
    sources = peers.first(lambda: [verify.open_source(store, component, ref) for component in wanted])
    load_components(sources[0], wanted, model, geometry, store, scratch, peers)
    return sources[0].manifest


def load_components(
    source: Source,
    components: list[Component],
    model: LoadableModel,
    geometry: ModelGeometry,
    store: ObjectStore,
    scratch: Path,
    peers: Peers,
) -> None:
    """Load some components from one verified checkpoint; collective; errors as for `load_model`."""
    for component in components:
        check_same_shape(component, source=source.manifest.model, target=geometry, uri=source.ref.uri)
    with peers.node_folder(scratch, "load") as folder:
        peers.each_node(lambda: _download(store, source, components, folder))
        peers.each(lambda: sharded.load_components(model, folder, components))
    if peers.is_first:
        logger.info("loaded %s from %s", ", ".join(components), source.ref.uri)


def _download(store: ObjectStore, source: Source, components: list[Component], folder: Path) -> None:
    """The index first: it tells in which files the components' tensors lie."""

    def fetch(names: Iterable[str]) -> None:
        wanted = transfer.named(source.manifest, set(names))
        transfer.download_objects(store, source.ref.uri, wanted, folder)

    fetch(sharded.INDEX_FILES)
    fetch(sharded.files_of(folder, components))
