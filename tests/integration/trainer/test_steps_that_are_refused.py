"""A step that is not one to take is refused by all ranks together, with the packs and the module to look at."""

from pathlib import Path

import pytest

from internvl_trainer.contract.manifest import ParallelLayout
from tests.integration.trainer import refusal_cases
from tests.integration.trainer.grid import on_grid
from tests.integration.trainer.refusal_cases import FAULTS, Refusal
from tests.integration.trainer.world import job

pytestmark = pytest.mark.integration

NOT_FINITE = [fault for fault in FAULTS if fault != "nothing"]


def refusals(
    layout: ParallelLayout, folder: Path, faults: list[str], limit: float | None = None
) -> list[list[Refusal]]:
    """For each fault, what each rank said."""
    settings = {"global_batch": 4, "drop_path": 0.3}
    config = job(folder, folder, layout=layout.model_dump(), optimization=settings)
    per_rank = on_grid(layout, refusal_cases.refuse, config, faults, limit)
    return [list(each) for each in zip(*per_rank, strict=True)]


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What all ranks of a grid of two stages and two replicas say, by fault."""
    said = refusals(ParallelLayout(pipeline=2, data=2), tmp_path_factory.mktemp("refusals"), NOT_FINITE)
    for ranks in said:
        assert ranks == [ranks[0]] * 4
        assert (ranks[0].error, ranks[0].kept) == ("NonFiniteLossError", True)
    return {fault: ranks[0].words for fault, ranks in zip(NOT_FINITE, said, strict=True)}


def test_a_spoilt_weight_is_named_rather_than_all_that_follows_from_it(words: dict[str, str]) -> None:
    said = words["nan in the head"]
    assert said.startswith("step 0: loss nan, gradient norm nan; no parameter was changed.")
    assert "Cause: parameter language_model.output_layer.weight holds a value that is not finite." in said
    assert "Packs whose loss is not finite: 0, 2." in said  # those of the replica whose copy is spoilt


def test_an_overflow_is_traced_to_the_layers_global_number_and_to_a_pack_of_any_replica(words: dict[str, str]) -> None:
    said = words["overflow in the last layer"]
    assert "Cause: language_model.decoder.layers.1.mlp.linear_fc2 is the first module whose output is not" in said
    assert "not finite, in pack 1." in said
    assert "Packs whose loss is not finite: 1, 3." in said


def test_an_overflow_outside_any_module_is_traced_to_the_first_that_receives_it(words: dict[str, str]) -> None:
    said = words["overflow in the patch embedding"]
    assert "the input of vision_model.encoder.layers.0.input_layernorm is the first value that is not finite" in said
    assert "Packs whose loss is not finite: 0-2." in said  # pack 3 has no image


def test_an_overflow_of_the_logits_is_the_heads(words: dict[str, str]) -> None:
    said = words["overflow in the head"]
    assert "Cause: language_model.output_layer is the first module whose output, or the loss made of it," in said
    assert "Packs whose loss is not finite: 0-3." in said


def test_after_a_finite_forward_pass_the_gradient_closest_to_the_loss_is_named(words: dict[str, str]) -> None:
    said = words["gradient of the projector"]
    assert "gradient norm nan" in said
    assert "the forward pass is finite; of the gradients that are not, that of projector.linear_in.weight is" in said
    assert "The loss of each pack is finite; the step's packs: 0-3." in said


def test_ranks_that_share_a_layer_agree_on_its_name(tmp_path: Path) -> None:
    (ranks,) = refusals(ParallelLayout(tensor=2), tmp_path, ["overflow in the last layer"])
    assert ranks == [ranks[0]] * 2
    assert "Cause: language_model.decoder.layers.1.mlp.linear_fc2 is the first module" in ranks[0].words
    assert ranks[0].kept


@pytest.mark.parametrize(("limit", "error"), [(1.0, "LossSpikeError"), (100.0, "nothing"), (None, "nothing")])
def test_a_loss_above_its_limit_is_refused_by_all_ranks(limit: float | None, error: str, tmp_path: Path) -> None:
    (ranks,) = refusals(ParallelLayout(data=2), tmp_path, ["nothing"], limit)
    assert ranks == [ranks[0]] * 2
    assert ranks[0].error == error
    if error != "nothing":
        assert ranks[0].kept
        assert "is above 1, optimization.spike_limit times the mean of the last steps" in ranks[0].words
        assert all(f"{pack} (" in ranks[0].words for pack in range(4))
