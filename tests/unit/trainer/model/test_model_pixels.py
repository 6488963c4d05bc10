"""Pixels before and patches after the vision encoder, against the reference."""

import json
from pathlib import Path

import pytest
import torch

from internvl_trainer.model.pixels import normalise_tiles, pixel_unshuffle

pytestmark = pytest.mark.unit

GOLDEN = json.loads((Path(__file__).parents[3] / "golden/pixel_shuffle.json").read_text())


def counting(shape: list[int]) -> torch.Tensor:
    return torch.arange(torch.Size(shape).numel(), dtype=torch.float32).reshape(shape)


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: f"{case['version']}-{case['in_shape']}")
def test_unshuffle_gives_the_reference_values(case: dict) -> None:
    expected = torch.tensor(case["out"], dtype=torch.float32).reshape(case["out_shape"])
    if case["version"] == "v1":  # which leaves height and width exchanged
        expected = expected.transpose(1, 2)
    assert torch.equal(pixel_unshuffle(counting(case["in_shape"])), expected)


def test_each_visual_token_is_made_of_its_own_four_patches() -> None:
    patch_numbers = counting([1, 32, 32, 1])
    tokens = pixel_unshuffle(patch_numbers).reshape(256, 4)
    assert tokens.int().tolist() == GOLDEN["patch_map_32x32_v2"]


def test_all_channels_of_a_patch_stay_together() -> None:
    grid = counting([1, 4, 4, 3])
    assert torch.equal(pixel_unshuffle(grid)[0, 0, 0], torch.cat([grid[0, r, c] for r in (0, 1) for c in (0, 1)]))


def test_a_grid_that_does_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="5x4 patch grid"):
        pixel_unshuffle(torch.zeros(1, 5, 4, 2))


def test_tiles_are_normalised_with_imagenet_statistics_and_turned_channels_first() -> None:
    tiles = torch.zeros(2, 4, 4, 3, dtype=torch.uint8)
    tiles[1] = 255
    pixels = normalise_tiles(tiles, torch.float32)
    assert pixels.shape == (2, 3, 4, 4)
    assert pixels[0, :, 0, 0].tolist() == pytest.approx([-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225])
    assert pixels[1, :, 3, 3].tolist() == pytest.approx([0.515 / 0.229, 0.544 / 0.224, 0.594 / 0.225])
