"""The packs of one rank, step by step, loaded ahead of the steps that need them."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from internvl_trainer.contract.data_position import DataPosition
from internvl_trainer.data.pack import Pack
from internvl_trainer.train.ahead import Ahead
from internvl_trainer.train.batches import Batch, PackLoader, PackSource, Plan
from internvl_trainer.train.prefetch import Prefetch
from internvl_trainer.train.workers import load_by_workers

_STEPS_AHEAD = 2
"""Steps at most that a thread has loaded and that nobody has taken yet."""

_PLANS = 4
"""Steps whose keys are known ahead of those being loaded: forming the packs of a window never holds a step up."""


@contextmanager
def feed(
    source: PackSource,
    position: DataPosition,
    *,
    global_batch: int,
    rank: int,
    ranks: int,
    with_tiles: bool,
    prefetch: Prefetch,
    pin: bool = False,
) -> Iterator[Iterator[Batch]]:
    """A data-parallel rank's packs of each step from a position on. Leaving it ends what it has started.

    Args:
        source: names and loads packs.
        position: where the data stands before the first step.
        global_batch: packs of a step over all ranks.
        rank, ranks: this data-parallel rank, and how many there are; it takes each `ranks`-th pack of a global batch.
        with_tiles: whether this process needs pixels.
        prefetch: who loads, and how far ahead.
        pin: have tiles in pinned memory; loader processes alone do that ahead.

    Yields:
        the steps without end, as epochs follow one another. Asking for the next one raises DataError or StoreError
        when loading it did, and LoaderWorkerDiedError at once when a loader process has died.
    """
    plans = (
        Plan(keys[rank::ranks], after) for keys, after in source.batches(position, global_batch)
    )  # fmt: skip
    with ExitStack() as stack:
        known = stack.enter_context(Ahead(plans, depth=_PLANS, name="pack-plans"))
        if prefetch.workers:
            steps: Ahead[Batch] = Ahead(
                load_by_workers(source.loader, known, prefetch, pin=pin, died=lambda error: steps.fail(error)),
                depth=1,
                name="pack-feed",
            )
        else:
            steps = Ahead(_load_here(source.loader, known, with_tiles), depth=_STEPS_AHEAD, name="pack-feed")
        yield iter(stack.enter_context(steps))


def _load_here(loader: PackLoader, plans: Ahead[Plan], with_tiles: bool) -> Iterator[Batch]:
    for plan in plans:
        packs: list[Pack] = [loader.load(key, with_tiles=with_tiles) for key in plan.keys]
        yield Batch(packs, plan.position)
