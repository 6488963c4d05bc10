"""Drop path is a pure function of where training stands."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from internvl_trainer.model.droppath import DropPathPlace, branch_scales, layer_rates

pytestmark = pytest.mark.unit

PLACE = DropPathPlace(seed=42, step=7, microbatch=3)


def test_the_rate_rises_from_zero_to_its_full_height_over_depth() -> None:
    assert layer_rates(0.4, 5) == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])
    assert layer_rates(0.1, 1) == [0.0]


def test_the_same_place_draws_the_same_and_every_other_place_draws_differently() -> None:
    there = branch_scales(0.5, PLACE, 2, 64)
    assert torch.equal(there, branch_scales(0.5, PLACE, 2, 64))
    others = [(PLACE._replace(seed=1), 2), (PLACE._replace(step=8), 2), (PLACE._replace(microbatch=4), 2), (PLACE, 3)]
    assert all(not torch.equal(there, branch_scales(0.5, place, layer, 64)) for place, layer in others)


def test_it_leaves_the_process_wide_random_state_alone() -> None:
    before = torch.get_rng_state()
    branch_scales(0.5, PLACE, 2, 64)
    assert torch.equal(before, torch.get_rng_state())


@settings(max_examples=25)
@given(rate=st.floats(0, 0.8), step=st.integers(0, 10_000))
def test_a_branch_is_dropped_or_scaled_up_so_that_the_mean_is_kept(rate: float, step: int) -> None:
    scales = branch_scales(rate, PLACE._replace(step=step), 1, 2000)
    assert scales[scales != 0].tolist() == pytest.approx([1 / (1 - rate)] * int(scales.count_nonzero()))
    assert scales.mean().item() == pytest.approx(1.0, abs=0.25)
