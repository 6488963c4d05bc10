"""Resizing stays within two levels of Pillow, whatever the sizes."""

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from internvl_trainer.data.pixels.resize import fill_tiles, resize
from internvl_trainer.model.pixels import normalise_tiles
from tests.unit.trainer.data.world import formula_image, golden

pytestmark = pytest.mark.unit

SIDES = st.integers(1, 40) | st.integers(1, 500)


def _noise(width: int, height: int, levels: int, seed: int) -> np.ndarray:
    """Hard edges everywhere, where resizing is at its worst: so many levels, black and white among them."""
    picture = np.random.default_rng(seed).integers(0, levels, (height, width, 3))
    return (picture * (255 // (levels - 1))).astype(np.uint8)


def _error(pixels_HWC: np.ndarray, width: int, height: int) -> np.ndarray:
    """Levels between our resizing and Pillow's, for every value."""
    pillows = np.asarray(Image.fromarray(pixels_HWC).resize((width, height), Image.Resampling.BICUBIC))
    return np.abs(resize(pixels_HWC, width, height).astype(int) - pillows)


@given(SIDES, SIDES, SIDES, SIDES, st.sampled_from([2, 4, 256]), st.integers(0, 9))
@settings(max_examples=150)
@example(169, 356, 682, 347, 2, 0).via("the width grows and the height shrinks: columns first")
@example(1080, 1920, 448, 448, 2, 0).via("the thumbnail of a portrait: columns first")
@example(400, 50, 360, 25, 2, 0).via("the height shrinks, but by less than the width twice: rows first")
@example(20_000, 30, 448, 448, 2, 0).via("a banner")
@example(1, 1, 448, 448, 2, 0)
def test_any_size_is_within_two_levels_of_pillow(
    width: int, height: int, new_width: int, new_height: int, levels: int, seed: int
) -> None:
    pixels_HWC = _noise(width, height, levels, seed)

    error = _error(pixels_HWC, new_width, new_height)

    assert error.shape == (new_height, new_width, 3)
    assert error.max() <= 2


@pytest.mark.parametrize(("width", "height"), [(640, 480), (480, 640), (1280, 720)])
def test_nearly_all_values_of_a_picture_are_pillows(width: int, height: int) -> None:
    picture = Image.fromarray(_noise(width // 8, height // 8, 256, seed=0)).resize((width, height))
    for size in ((896, 896), (448, 448)):
        assert (_error(np.asarray(picture), *size) == 0).mean() > 0.98


def test_frames_of_a_video_hold_the_reference_pixels() -> None:
    for case in golden("tiling_pixels.json")["video_frames"]:
        frame_HWC = np.asarray(formula_image(case["w"], case["h"]))

        tile_1SSC = torch.from_numpy(resize(frame_HWC, 448, 448)[None])
        normal_CSS = normalise_tiles(tile_1SSC, torch.float32)[0]

        assert normal_CSS.mean(dim=(1, 2)).tolist() == pytest.approx(case["norm_mean"], abs=0.02)
        for x, y, colour in case["norm_px"]:
            assert normal_CSS[:, y, x].tolist() == pytest.approx(colour, abs=0.02)


def test_an_array_that_torch_cannot_share_is_copied() -> None:
    frame_HWC = np.asarray(formula_image(60, 40))[:, ::-1]
    assert not frame_HWC.flags.writeable

    assert np.array_equal(resize(frame_HWC, 30, 20), resize(frame_HWC.copy(), 30, 20))


def test_tiles_are_parts_of_the_resized_image_in_reading_order() -> None:
    picture_HWC = np.asarray(formula_image(300, 180))
    tiles_NSSC = np.zeros((7, 28, 28, 3), dtype=np.uint8)

    fill_tiles(tiles_NSSC, picture_HWC, 3, 2)

    rows = [np.concatenate(tiles_NSSC[begin : begin + 3], axis=1) for begin in (0, 3)]
    assert np.array_equal(np.concatenate(rows), resize(picture_HWC, 84, 56))
    assert np.array_equal(tiles_NSSC[6], resize(picture_HWC, 28, 28))
