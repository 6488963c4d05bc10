"""Dynamic high resolution: grids equal those the released models were trained with, and tiles are cut from them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from internvl_trainer.data import tiling
from tests.unit.trainer.data.world import formula_image, golden

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("group", ["cases", "tie_cases"])
def test_every_golden_image_size_gets_the_reference_grid_and_tile_count(group: str) -> None:
    for case in golden("tiling.json")[group]:
        size = (case["w"], case["h"])
        limits = {"min_tiles": case["min_num"], "max_tiles": case["max_num"], "tile_size": case["image_size"]}

        assert tiling.choose_grid(*size, **limits) == (case["cols"], case["rows"]), case
        assert tiling.tile_count(*size, **limits, thumbnail=case["use_thumbnail"]) == case["n_tiles"], case


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
        assert [tiling.tile_count(*size, max_tiles=share) for size in case["sizes"]] == case["tiles"]


def test_tiles_hold_the_reference_pixels_to_one_level() -> None:
    for case in golden("tiling_pixels.json")["cases"]:
        image = formula_image(case["w"], case["h"])

        tiles_NHWC = tiling.tile_image(image, max_tiles=case["max_num"], tile_size=case["image_size"])

        assert len(tiles_NHWC) == len(case["tiles"])
        for tile_HWC, expected in zip(tiles_NHWC, case["tiles"], strict=True):
            assert tile_HWC.mean(axis=(0, 1)) == pytest.approx(expected["uint8_mean"], abs=1)
            for x, y, colour in expected["px"]:
                assert tile_HWC[y, x].astype(int) == pytest.approx(colour, abs=1)


def test_the_thumbnail_shows_the_whole_image_and_comes_last() -> None:
    halves = Image.new("RGB", (224, 112), "black")
    halves.paste("white", (112, 0, 224, 112))

    left, right, thumbnail = tiling.tile_image(halves, max_tiles=2, tile_size=112)

    assert (left.max(), right.min()) == (0, 255)
    assert thumbnail[:, :50].max() < 10
    assert thumbnail[:, -50:].min() > 245


def test_an_image_in_any_mode_becomes_rgb() -> None:
    assert tiling.tile_image(Image.new("LA", (30, 30)), tile_size=28).shape == (1, 28, 28, 3)


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


def test_jpeg_augmentation_changes_pixels_a_little_and_depends_on_the_quality_alone() -> None:
    tiles_NHWC = tiling.tile_image(formula_image(56, 28), max_tiles=2, tile_size=28)

    first, second = (tiling.jpeg_round_trip(tiles_NHWC, [75, 100, 75]) for _ in range(2))

    assert np.array_equal(first, second)
    error = np.abs(first.astype(int) - tiles_NHWC.astype(int)).mean(axis=(1, 2, 3))
    assert 0 < error[1] < error[0]
