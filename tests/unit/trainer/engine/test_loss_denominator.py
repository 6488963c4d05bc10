"""What a loss is divided by: the whole global batch, or micro-step by micro-step as the released recipes do."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internvl_trainer.data.loss_weights import token_weights
from internvl_trainer.engine.denominator import loss_scales

pytestmark = pytest.mark.unit

GOLDEN = json.loads((Path(__file__).parents[3] / "golden/loss_reweighting.json").read_text())
EXAMPLES = {0: GOLDEN["examples"][0], 2: GOLDEN["examples"][-1]}
"""By their number in the whole golden file, of which ours leaves out number 1."""
WEIGHTS = st.lists(st.lists(st.floats(0.01, 100), min_size=2, max_size=2), min_size=1, max_size=8)


def numerator_and_weight(example: int, mode: str) -> tuple[float, float]:
    """Of one golden pack: sum(weight * loss) and sum(weight)."""
    answers = EXAMPLES[example]["responses"]
    weights = [token_weights(answer["n_supervised"], mode) for answer in answers]  # type: ignore[arg-type]
    numerator = sum(weight * sum(answer["token_losses"]) for weight, answer in zip(weights, answers, strict=True))
    counts = [len(answer["token_losses"]) for answer in answers]
    return numerator, sum(weight * count for weight, count in zip(weights, counts, strict=True))


@pytest.mark.parametrize("denominator", ["global-batch", "micro-step"])
@pytest.mark.parametrize("case", GOLDEN["all_gather"], ids=lambda case: case["reduction"])
def test_one_micro_step_on_two_ranks_is_the_reference_under_both_settings(case: dict, denominator: str) -> None:
    ranks = [numerator_and_weight(case[f"rank{rank}_example"], case["reduction"]) for rank in (0, 1)]
    assert sum(weight for _, weight in ranks) / 2 == pytest.approx(case["avg_weight_sum"], rel=1e-9)
    (scale,) = loss_scales([sum(weight for _, weight in ranks)], denominator)  # type: ignore[arg-type]
    # The reference averages gradients over ranks, ours are summed: hence the factor of two.
    for rank, (numerator, _) in enumerate(ranks):
        assert 2 * scale * numerator == pytest.approx(case[f"rank{rank}_loss"], rel=1e-9)
    assert sum(scale * numerator for numerator, _ in ranks) == pytest.approx(case["equals_global"], rel=1e-9)


@given(weights=WEIGHTS)
def test_by_micro_step_each_one_is_a_mean_of_its_own_and_these_are_averaged(weights: list[list[float]]) -> None:
    """As the reference computes it: D = mean over ranks of a micro-step's weights, then means of means."""
    numerators = [[weight * (1 + number) for weight in step] for number, step in enumerate(weights)]
    theirs = 0.0
    for step, step_numerators in zip(weights, numerators, strict=True):
        denominator = sum(step) / len(step)
        theirs += sum(numerator / denominator for numerator in step_numerators) / len(step) / len(weights)
    scales = loss_scales([sum(step) for step in weights], "micro-step")
    mine = sum(scale * sum(step) for scale, step in zip(scales, numerators, strict=True))
    assert mine == pytest.approx(theirs, rel=1e-9)


@given(packs=st.lists(st.floats(0.01, 100), min_size=4, max_size=4))
def test_over_the_global_batch_the_loss_does_not_depend_on_how_many_ranks_share_it(packs: list[float]) -> None:
    scales = {
        ranks: loss_scales([sum(packs[first : first + ranks]) for first in range(0, 4, ranks)], "global-batch")
        for ranks in (1, 2, 4)
    }
    assert {len(each) for each in scales.values()} == {4, 2, 1}
    assert all(scale == pytest.approx(1 / sum(packs), rel=1e-12) for each in scales.values() for scale in each)


def test_a_micro_step_without_weight_contributes_nothing_and_still_counts() -> None:
    assert loss_scales([4.0, 0.0], "micro-step") == (0.125, 0.0)
    assert loss_scales([4.0, 0.0], "global-batch") == (0.25, 0.25)


@pytest.mark.parametrize("denominator", ["global-batch", "micro-step"])
def test_a_batch_without_any_weight_has_no_loss(denominator: str) -> None:
    with pytest.raises(ZeroDivisionError):
        loss_scales([0.0, 0.0], denominator)  # type: ignore[arg-type]
