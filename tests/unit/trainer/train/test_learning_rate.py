"""The learning rate follows the released scripts' schedule."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internvl_trainer.train.lr import cosine

pytestmark = pytest.mark.unit

CASES = json.loads((Path(__file__).parents[3] / "golden/lr_schedule.json").read_text())["cases"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['max_steps']}-{case['base_lr']}")
def test_it_is_the_reference_schedule(case: dict) -> None:
    for step, expected in case["lr"]:
        rate = cosine(step, peak=case["base_lr"], warmup_steps=case["warmup_steps"], total_steps=case["max_steps"])
        assert rate == pytest.approx(expected, rel=1e-12, abs=1e-24)


@given(step=st.integers(0, 3000), warmup=st.integers(0, 50), total=st.integers(1, 2000), minimum=st.floats(0, 1e-5))
def test_it_never_leaves_the_band_between_minimum_and_peak_after_the_warm_up(
    step: int, warmup: int, total: int, minimum: float
) -> None:
    rate = cosine(step, peak=1e-3, warmup_steps=warmup, total_steps=total, minimum=minimum)
    assert 0 <= rate <= 1e-3
    assert step < warmup or rate >= minimum


def test_a_schedule_that_is_longer_than_the_stage_ends_above_its_minimum() -> None:
    assert cosine(2750, peak=2e-4, warmup_steps=100, total_steps=100_000) > 0.99 * 2e-4
