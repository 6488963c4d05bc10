"""What travels between the stream of packs, those that load them and the loop."""

from collections.abc import Iterator
from typing import NamedTuple, Protocol

from internvl_trainer.contract.data_position import DataPosition
from internvl_trainer.data.pack import Pack
from internvl_trainer.data.walk import PackKey


class PackLoader(Protocol):
    """What makes packs of their keys. Loader processes get one by pickle."""

    def load(self, key: PackKey, *, with_tiles: bool = True) -> Pack: ...


class PackSource(Protocol):
    """Where packs come from; PackStream is one."""

    @property
    def loader(self) -> PackLoader: ...

    def batches(
        self, position: DataPosition, global_batch: int
    ) -> Iterator[tuple[tuple[PackKey, ...], DataPosition]]: ...


class Plan(NamedTuple):
    """One step of one rank: which packs, and where in the data the whole job stands after it."""

    keys: tuple[PackKey, ...]
    position: DataPosition


class Batch(NamedTuple):
    """The packs of one step of one rank, and where in the data the whole job stands after it."""

    packs: list[Pack]
    position: DataPosition
