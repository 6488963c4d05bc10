"""The JPEG augmentation takes from a tile exactly what Pillow's round trip takes."""

import io

import numpy as np
import pytest
from PIL import Image

from internvl_trainer.data.pixels import jpeg
from tests.unit.trainer.data.world import formula_image, golden

pytestmark = pytest.mark.unit


def _by_pillow(tile_SSC: np.ndarray, quality: int) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(tile_SSC).convert("RGB").save(buffer, format="JPEG", quality=quality)
    return np.asarray(Image.open(buffer).convert("RGB"))


def _tiles(count: int) -> np.ndarray:
    pictures = [formula_image(112, 112)] * (count // 2)
    noise = np.random.default_rng(0).integers(0, 256, (count - len(pictures), 112, 112, 3), dtype=np.uint8)
    return np.concatenate([np.stack([np.asarray(picture) for picture in pictures]), noise])


def test_every_quality_of_the_recipe_gives_pillows_pixels() -> None:
    qualities = golden("tiling_pixels.json")["jpeg_qualities"]
    assert qualities == list(range(jpeg.QUALITIES[0], jpeg.QUALITIES[1] + 1))
    for before_NSSC in (_tiles(52)[:26], _tiles(52)[26:]):
        after_NSSC = before_NSSC.copy()

        jpeg.round_trip(after_NSSC, qualities)

        for before, after, quality in zip(before_NSSC, after_NSSC, qualities, strict=True):
            assert np.array_equal(after, _by_pillow(before, quality)), quality


def test_a_lower_quality_leaves_less() -> None:
    tiles_NSSC = np.repeat(_tiles(2)[:1], 3, axis=0)
    changed_NSSC = tiles_NSSC.copy()

    jpeg.round_trip(changed_NSSC, [75, 100, 75])

    error = np.abs(changed_NSSC.astype(int) - tiles_NSSC).mean(axis=(1, 2, 3))
    assert np.array_equal(changed_NSSC[0], changed_NSSC[2])
    assert 0 < error[1] < error[0]


def test_every_tile_needs_a_quality() -> None:
    with pytest.raises(ValueError):
        jpeg.round_trip(_tiles(2), [80])
