"""Positions for tiles of another size are the learned ones, resized as the reference resizes them."""

import json
import math
import zlib
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from internvl_trainer.model.positions import resize_positions

pytestmark = pytest.mark.unit

CASES = json.loads((Path(__file__).parents[3] / "golden/tiny_intern_vit.json").read_text())["cases"]


def learned(side: int, hidden: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(1 + side**2, hidden, generator=torch.Generator().manual_seed(seed))


def by_torch(position_PH: torch.Tensor, side_from: int, side_to: int) -> torch.Tensor:
    grid_1HBB = position_PH[1:].float().reshape(1, side_from, side_from, -1).permute(0, 3, 1, 2)
    resized = torch.nn.functional.interpolate(grid_1HBB, size=(side_to, side_to), mode="bicubic", align_corners=False)
    return torch.cat([position_PH[:1], resized.permute(0, 2, 3, 1).flatten(0, 2).to(position_PH.dtype)])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["kind"])
def test_resized_positions_are_those_of_the_reference(case: dict) -> None:
    _, positions, hidden = case["param_shapes"]["embeddings.position_embedding"]
    shift = zlib.crc32(b"embeddings.position_embedding") % 1000 / 159
    k = torch.arange(positions * hidden, dtype=torch.float64)
    position_PH = (0.08 * torch.sin(0.37 * (k + 1) + shift)).float().reshape(positions, hidden)
    golden = case["resize_pos_embeddings_28_to_42"]

    resized = resize_positions(position_PH, 4, 6)

    assert [1, *resized.shape] == golden["shape"]
    ours = resized.flatten()[: len(golden["values"])]
    assert ours.tolist() == pytest.approx(golden["values"], abs=2e-5)


@settings(max_examples=40)
@given(side_from=st.integers(1, 12), side_to=st.integers(1, 12), seed=st.integers(0, 9))
def test_they_are_torchs_bicubic_values_for_any_two_sides(side_from: int, side_to: int, seed: int) -> None:
    position_PH = learned(side_from, 5, seed)
    resized = resize_positions(position_PH, side_from, side_to)
    torch.testing.assert_close(resized, by_torch(position_PH, side_from, side_to), atol=2e-6, rtol=1e-5)


def test_the_class_token_and_a_grid_of_the_same_side_stay_as_they_are() -> None:
    position_PH = learned(4, 3)
    assert resize_positions(position_PH, 4, 4) is position_PH
    assert torch.equal(resize_positions(position_PH, 4, 7)[0], position_PH[0])


def test_half_precision_is_resized_in_full_and_rounded_once() -> None:
    position_PH = learned(8, 4).bfloat16()
    resized = resize_positions(position_PH, 8, 5)
    assert resized.dtype is torch.bfloat16
    assert torch.equal(resized[1:], resize_positions(position_PH.float(), 8, 5).bfloat16()[1:])


def test_the_gradient_is_that_of_torchs_interpolation() -> None:
    ours, theirs = learned(4, 3).requires_grad_(), learned(4, 3).requires_grad_()
    upstream = torch.randn(1 + 6 * 6, 3, generator=torch.Generator().manual_seed(1))
    resize_positions(ours, 4, 6).backward(upstream)
    by_torch(theirs, 4, 6).backward(upstream)
    torch.testing.assert_close(ours.grad, theirs.grad, atol=2e-6, rtol=1e-5)


def test_positions_of_another_grid_are_refused() -> None:
    with pytest.raises(ValueError, match=r"17 positions are not 1 \+ 5 x 5 = 26"):
        resize_positions(learned(4, 3), 5, 6)


def test_the_released_size_can_be_halved_and_doubled() -> None:
    position_PH = learned(32, 2)
    for side in (16, 64):
        assert resize_positions(position_PH, 32, side).shape == (1 + math.prod((side, side)), 2)
