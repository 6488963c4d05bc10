"""Dynamic high resolution: grids equal those the released models were trained with, and tiles are cut from them."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from internvl_trainer.data import tiling
from internvl_trainer.model.pixels import normalise_tiles
from tests.unit.trainer.data.world import formula_image, golden

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("group", ["cases", "tie_cases"])
def test_every_golden_image_size_gets_the_reference_grid_and_tile_count(group: str) -> None:
    for case in golden("tiling.json")[group]:
        size, side = (case["w"], case["h"]), case["image_size"]
        limits = {"min_tiles": case["min_num"], "max_tiles": case["max_num"], "tile_size": side}

        columns, rows = tiling.choose_grid(*size, **limits)
        count = tiling.tile_count(*size, **limits, thumbnail=case["use_thumbnail"])

        assert (columns, rows) == (case["cols"], case["rows"]), case
        assert [columns * side, rows * side] == case["resize_to"], case
        assert count == case["n_tiles"], case
        assert (count > columns * rows) == case["has_thumbnail"], case
        last = [(columns - 1) * side, (rows - 1) * side, columns * side, rows * side]
        assert ([0, 0, side, side], last) == (case["first_box"], case["last_box"]), case
        assert case["visual_tokens"] in (None, count * (side // 28) ** 2), case


def test_even_ties_that_hang_on_the_scan_order_fall_as_in_the_reference() -> None:
    for case in golden("tiling.json")["order_dependent_cases"]:
        grid = tiling.choose_grid(case["w"], case["h"], case["min_num"], case["max_num"])

        assert grid == tuple(case["reference"]), case


def test_candidates_are_scanned_in_the_reference_order() -> None:
    for limits, grids in golden("tiling_candidates.json")["candidates"].items():
        low, high = map(int, limits.split("-"))

        assert list(tiling._candidates(low, high)) == [tuple(grid) for grid in grids], limits


def test_images_of_one_sample_share_its_tile_budget() -> None:
    for case in golden("tiling.json")["multi_image"]:
        share = tiling.max_tiles_per_image(case["max_dynamic_patch"], case["n_images"])

        assert share == case["per_image_max"]
        assert [list(tiling.choose_grid(*size, max_tiles=share)) for size in case["sizes"]] == case["grids"]
        tiles = [tiling.tile_count(*size, max_tiles=share) for size in case["sizes"]]
        assert (tiles, sum(tiles)) == (case["tiles"], case["total_tiles"])


def test_tiles_hold_the_reference_pixels_to_one_level() -> None:
    for case in golden("tiling_pixels.json")["cases"]:
        image = formula_image(case["w"], case["h"])

        tiles_NHWC = tiling.tile_image(image, max_tiles=case["max_num"], tile_size=case["image_size"])

        assert len(tiles_NHWC) == len(case["tiles"])
        for tile_HWC, expected in zip(tiles_NHWC, case["tiles"], strict=True):
            assert tile_HWC.mean(axis=(0, 1)) == pytest.approx(expected["uint8_mean"], abs=1)
            for x, y, colour in expected["px"]:
                assert tile_HWC[y, x].astype(int) == pytest.approx(colour, abs=1)
            normal_CHW = normalise_tiles(torch.from_numpy(tile_HWC[None]), torch.float32)[0]
            assert normal_CHW.mean(dim=(1, 2)).tolist() == pytest.approx(expected["norm_mean"], abs=0.02)
            assert normal_CHW.std(dim=(1, 2), correction=0).tolist() == pytest.approx(expected["norm_std"], abs=0.02)
            for x, y, colour in expected["norm_px"]:
                assert normal_CHW[:, y, x].tolist() == pytest.approx(colour, abs=0.02)


def test_the_thumbnail_shows_the_whole_image_and_comes_last() -> None:
    halves = Image.new("RGB", (224, 112), "black")
    halves.paste("white", (112, 0, 224, 112))

    left, right, thumbnail = tiling.tile_image(halves, max_tiles=2, tile_size=112)

    assert (left.max(), right.min()) == (0, 255)
    assert thumbnail[:, :50].max() < 10
    assert thumbnail[:, -50:].min() > 245


def test_an_image_of_any_mode_or_an_array_can_be_cut() -> None:
    picture = formula_image(90, 30)

    tiles = [tiling.tile_image(image, tile_size=28) for image in (picture, np.asarray(picture), picture.convert("LA"))]

    assert [tiles_NSSC.shape for tiles_NSSC in tiles] == [(4, 28, 28, 3)] * 3
    assert np.array_equal(tiles[0], tiles[1])


@pytest.mark.parametrize(
    "image", [np.zeros((30, 30), np.uint8), np.zeros((3, 30, 30), np.uint8), np.zeros((30, 30, 3))]
)
def test_an_array_that_is_no_rgb_image_is_refused(image: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"an image must be uint8\[H, W, 3\]; is (uint8|float64)\["):
        tiling.tile_image(image)


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 40), st.booleans())
def test_a_grid_never_exceeds_its_budget(width: int, height: int, max_tiles: int, thumbnail: bool) -> None:
    columns, rows = tiling.choose_grid(width, height, max_tiles=max_tiles)

    assert 1 <= columns * rows <= max_tiles
    count = tiling.tile_count(width, height, max_tiles=max_tiles, thumbnail=thumbnail)
    assert count - columns * rows == int(thumbnail and columns * rows > 1)


@pytest.mark.parametrize("sizes", [(0, 10, 1, 12), (10, 10, 0, 12), (10, 10, 3, 2)])
def test_sizes_that_make_no_sense_are_refused(sizes: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        tiling.choose_grid(*sizes)
