"""Loss reweighting: the paper's three modes, as numbers."""

import pytest

from internvl_trainer.data.loss_weights import token_weights
from tests.unit.trainer.data.world import golden

pytestmark = pytest.mark.unit


def test_weights_equal_the_reference_for_every_number_of_supervised_tokens() -> None:
    for row in golden("loss_reweighting.json")["weights"]:
        for mode in ("token", "sample", "square"):
            assert token_weights(row["x"], mode) == pytest.approx(row[mode], rel=1e-9), (row, mode)


def test_a_pack_loss_is_the_weighted_mean_over_its_tokens() -> None:
    for example in golden("loss_reweighting.json")["examples"]:
        for mode in ("token", "sample", "square"):
            weighted = [
                (token_weights(answer["n_supervised"], mode), loss)
                for answer in example["responses"]
                for loss in answer["token_losses"]
            ]
            numerator = sum(weight * loss for weight, loss in weighted)
            total = sum(weight for weight, _ in weighted)

            assert total == pytest.approx(example[mode]["weight_sum"], rel=1e-9)
            assert numerator / total == pytest.approx(example[mode]["loss"], rel=1e-9)


def test_an_unknown_mode_is_named() -> None:
    with pytest.raises(ValueError, match="'cube'; known modes: token, sample, square"):
        token_weights(4, "cube")  # type: ignore[arg-type]
