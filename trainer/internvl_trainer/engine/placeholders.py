"""The check of packs before a step. Shapes: S tokens."""

from collections.abc import Sequence

import numpy as np

from internvl_trainer.contract.catalog import ModelGeometry
from internvl_trainer.data.pack import Pack
from internvl_trainer.model.errors import VisualTokenMismatchError


def check_placeholders(packs: Sequence[Pack], geometry: ModelGeometry, image_token: int) -> None:
    """Every pack has exactly as many `<IMG_CONTEXT>` placeholders as its tiles give visual tokens.

    Raises:
        VisualTokenMismatchError: names the pack and its samples; those that are off by themselves, if any are.
    """
    per_tile = geometry.tokens_per_tile
    for pack in packs:
        is_image_S = pack.tokens_S == image_token
        if int(is_image_S.sum()) == pack.tile_count * per_tile:
            continue
        counts = np.add.reduceat(is_image_S.astype(int), pack.cu_seqlens[:-1])
        suspects = [name for name, count in zip(pack.sample_ids, counts, strict=False) if count % per_tile]
        samples = tuple(suspects) or pack.sample_ids
        raise VisualTokenMismatchError(pack.index, samples, int(is_image_S.sum()), pack.tile_count, per_tile)
