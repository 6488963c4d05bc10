"""Loading model tensors from a verified checkpoint, at any layout: for the start of a stage and for evaluation."""

import logging
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch.distributed as dist

from internvl_trainer.checkpoint import sharded, verify
from internvl_trainer.checkpoint.components import check_same_shape
from internvl_trainer.checkpoint.peers import Peers
from internvl_trainer.checkpoint.ranges import Range
from internvl_trainer.checkpoint.sharded import LoadableModel, ShardedStateDict
from internvl_trainer.checkpoint.transfer import Transfers, Wanted, named
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
    wanted = list(components)
    with Transfers(store) as transfers:
        transport = Transport(transfers, scratch, Peers.from_environment())
        sources = transport.peers.first(lambda: [verify.open_source(store, component, ref) for component in wanted])
        load_components(sources[0], wanted, model, geometry, transport)
    return sources[0].manifest


@dataclass(frozen=True)
class Transport:
    """Between the store and the processes of a job, by way of each node's scratch."""

    transfers: Transfers
    scratch: Path
    peers: Peers

    @contextmanager
    def fetched(self, source: Source, state: ShardedStateDict) -> Iterator[Path]:
        """A folder from which `load` can load `state`, or parts of it. Collective; errors as for `load_model`.

        Each node downloads, once, the blocks that hold what its processes ask for, and no others.
        """
        with self.peers.node_folder(self.scratch, "load") as folder:
            self.peers.each_node(lambda: self._download(source, dict.fromkeys(sharded.INDEX_FILES), folder))
            mine = self.peers.each(lambda: sharded.ranges_of(folder, state))
            ranges: dict[str, list[Range] | None] = defaultdict(list)
            for asked in self.peers.on_node(mine):
                for file, wanted in asked.items():
                    ranges[file] = [*(ranges[file] or ()), *wanted]
            self.peers.each_node(lambda: self._download(source, ranges, folder))
            yield folder

    def load(self, folder: Path, state: ShardedStateDict) -> ShardedStateDict:
        """What `state` asks for, loaded into its tensors from a fetched folder. Collective."""
        loaded = self.peers.each(lambda: sharded.load(state, folder))
        return {name: loaded[name] for name in state}

    def _download(self, source: Source, ranges: Mapping[str, list[Range] | None], folder: Path) -> None:
        """Fetch the blocks that hold some ranges of files; None asks for the whole file."""
        begun = time.monotonic()
        wanted = []
        for stored in named(source.manifest, ranges):
            asked = ranges[stored.key]
            wanted.append(Wanted.whole(stored) if asked is None else Wanted.part(stored, asked))
        self.transfers.download(source.ref.uri, wanted, folder)
        size = sum(each.size for each in wanted)
        logger.info("fetched %.1f MB of %d objects in %.2f s", size / 1e6, len(wanted), time.monotonic() - begun)


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
