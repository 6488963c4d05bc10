"""What the image benchmark compares: three ways to the same tiles."""

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from bench.data.__main__ import main
from bench.data.images import SIZES, Timing, compete, table
from bench.data.photo import photo
from bench.data.pipelines import PIPELINES, ours, with_pillow, with_torchvision
from internvl_trainer.model.pixels import normalise_tiles

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("qualities", [[], [75, 100, 90]])
def test_every_contender_makes_the_same_tiles(qualities: list[int]) -> None:
    data = photo(320, 150)

    tiles_NCSS = normalise_tiles(torch.from_numpy(ours(data, qualities)), torch.float32)

    assert tiles_NCSS.shape == (3, 3, 448, 448)
    level = 1 / 255 / 0.224
    assert (tiles_NCSS - with_pillow(data, qualities)).abs().mean() < level / 2
    assert (tiles_NCSS - with_torchvision(data, qualities)).abs().mean() < 2 * level


def test_a_picture_costs_a_decoder_what_a_photograph_costs() -> None:
    assert 1.5 < 8 * len(photo(640, 480)) / 640 / 480 < 3


def test_contenders_take_turns_and_are_compared_with_the_released_pipeline() -> None:
    timings = [Timing(name, "tiny", 3, False) for name in PIPELINES]
    compete(timings, photo(320, 150), [], rounds=2)
    assert [len(timing.seconds) for timing in timings] == [2, 2, 2]

    for timing, seconds in zip(timings, (0.1, 0.5, 0.25), strict=True):
        timing.seconds = [seconds]
    assert [line.split("|")[4:-1] for line in table(timings).splitlines()[2:]] == [
        [" 100.0 ", " 30 ", " 5.0 "],
        [" 500.0 ", " 6 ", " 1.0 "],
        [" 250.0 ", " 12 ", " 2.0 "],
    ]


def test_the_command_names_its_sizes() -> None:
    assert "images" in CliRunner().invoke(main, ["--help"]).output
    assert np.prod(SIZES, axis=1).tolist() == [307_200, 2_073_600, 6_000_000]
