"""What packing makes of an epoch, before a stage runs."""

from collections.abc import Sequence

import numpy as np
from pydantic import Field

from internvl_trainer.contract.job import DataConfig
from internvl_trainer.curation.document import Document
from internvl_trainer.data.packing import PackCost, PackLimits
from internvl_trainer.data.sources import Source
from internvl_trainer.data.walk import Walk, estimate

WINDOWS = 64
"""Most windows that are packed for an estimate: 262,144 draws, which takes seconds and tells fill to 0.1 %."""

_ANY_COST = PackCost(token=1, square=0, tile=0)
"""Decides only which rank takes which pack, and so nothing here."""


class Fill(Document):
    """Packs of one epoch. Exact where `exact` says so, else scaled up from an even sample of its windows."""

    packs: int
    samples: int
    tokens: int
    tiles: int
    token_fill: float = Field(description="share of the packs' tokens that are filled")
    tile_fill: float
    packs_bound: int = Field(description="no packing of these samples has fewer packs than this")
    exact: bool
    global_batch: int | None = Field(description="packs of an optimizer step; None where nobody said")
    replicas: int = Field(description="data-parallel replicas that share a global batch")
    steps: float | None = Field(description="optimizer steps of one epoch")

    @property
    def samples_per_pack(self) -> float:
        """On average."""
        return self.samples / self.packs if self.packs else 0.0


def estimate_fill(
    rows: Sequence[np.ndarray],
    sources: Sequence[Source],
    data: DataConfig,
    *,
    global_batch: int | None = None,
    replicas: int = 1,
) -> Fill:
    """Pack an epoch, or an even sample of it.

    Args:
        rows: of each data set, ROW[samples], usually memory maps.

    Raises:
        MetaError: an epoch would draw nothing.
    """
    limits = PackLimits(data.pack_tokens, data.pack_tiles)
    walk = Walk(
        rows,
        [source.repeat_time for source in sources],
        limits=limits,
        cost=_ANY_COST,
        repeat_mode=data.repeat_mode,
        seed=data.seed,
    )
    found = estimate(walk, max_windows=WINDOWS)
    return Fill(
        packs=found.packs,
        samples=found.samples,
        tokens=found.tokens,
        tiles=found.tiles,
        token_fill=found.token_fill,
        tile_fill=found.tile_fill,
        packs_bound=max(-(-found.tokens // limits.tokens), -(-found.tiles // limits.tiles)),
        exact=found.exact,
        global_batch=global_batch,
        replicas=replicas,
        steps=found.packs / global_batch if global_batch else None,
    )
