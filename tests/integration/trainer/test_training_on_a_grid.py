"""Training is the same computation on every process grid, and stops as one where it must stop."""

import math
from itertools import combinations
from pathlib import Path

import pytest

from internvl_trainer.contract.base import Component
from internvl_trainer.contract.job import JobConfig, PartitionConfig
from internvl_trainer.contract.manifest import ParallelLayout
from tests.integration.trainer import cases
from tests.integration.trainer.cases import Training
from tests.integration.trainer.grid import on_grid
from tests.integration.trainer.packs import Images
from tests.integration.trainer.world import job

pytestmark = pytest.mark.integration

SINGLE = ParallelLayout()
SEQUENCE = PartitionConfig(sequence=True)
GRIDS = [
    pytest.param(ParallelLayout(tensor=2, pipeline=2), PartitionConfig(), id="tp2-pp2"),
    pytest.param(ParallelLayout(pipeline=2, data=2), PartitionConfig(), id="pp2-dp2"),
    pytest.param(ParallelLayout(tensor=2, data=2), SEQUENCE, id="tp2-dp2-sequence"),
]
FREEZES = [parts for size in (1, 2, 3) for parts in combinations(Component, size)]
STEPS: dict[Images, int] = {"mixed": 3, "always": 1, "never": 1}


def jobs(layout: ParallelLayout, folder: Path, partition: PartitionConfig = PartitionConfig()) -> list[JobConfig]:  # noqa: B008
    """One job per choice of trainable components, with drop path."""
    settings = {"global_batch": 4, "drop_path": 0.3, "steps": STEPS["mixed"]}
    cut = {"layout": layout.model_dump(), "partition": partition.model_dump()}
    return [job(folder, folder, **cut, trainable=parts, optimization=settings) for parts in FREEZES]


@pytest.fixture(scope="module")
def references(tmp_path_factory: pytest.TempPathFactory) -> dict[Images, list[Training]]:
    """The same jobs in one process, on packs with, without, and with and without images."""
    (trained,) = on_grid(SINGLE, cases.train_on_all_kinds, jobs(SINGLE, tmp_path_factory.mktemp("single")), STEPS)
    return trained


@pytest.fixture(scope="module")
def reference(references: dict[Images, list[Training]]) -> list[Training]:
    return references["mixed"]


@pytest.mark.parametrize(("layout", "partition"), GRIDS)
def test_whatever_is_trained_and_wherever_images_are_all_grids_do_the_same(
    layout: ParallelLayout, partition: PartitionConfig, references: dict[Images, list[Training]], tmp_path: Path
) -> None:
    per_rank = on_grid(layout, cases.train_on_all_kinds, jobs(layout, tmp_path, partition), STEPS)
    for trained in per_rank:
        for images, expected in references.items():
            steps = [step for each in trained[images] for step in each.steps]
            assert len(steps) == len(FREEZES) * STEPS[images]
            for ours, theirs in zip(steps, (step for each in expected for step in each.steps), strict=True):
                assert ours.loss == pytest.approx(theirs.loss, rel=1e-5)
                assert ours.grad_norm == pytest.approx(theirs.grad_norm, rel=5e-5)
                assert (ours.tokens, ours.tiles) == (theirs.tokens, theirs.tiles)


def test_exactly_the_trainable_components_move_and_have_optimizer_state(reference: list[Training]) -> None:
    modules = {"vision": "vision_model", "projector": "projector", "language": "language_model"}
    for parts, trained in zip(FREEZES, reference, strict=True):
        assert trained.moved == trained.optimized == {modules[part] for part in parts}


def test_the_loss_falls(reference: list[Training]) -> None:
    everything = reference[-1].steps
    assert everything[-1].loss < everything[0].loss


@pytest.mark.parametrize("scope", ["all", "matrices"])
def test_text_alone_gives_vision_gradients_of_exactly_zero_and_weight_decay_reaches_what_its_scope_says(
    scope: str, tmp_path: Path
) -> None:
    layout = ParallelLayout(tensor=2)
    settings = {"global_batch": 2, "drop_path": 0.3, "weight_decay": 0.5, "decay_scope": scope}
    config = job(tmp_path, tmp_path, layout=layout.model_dump(), optimization=settings)
    for weights in on_grid(layout, cases.train_without_images, config):
        assert [weight for weight in weights if weight.largest_gradient != 0] == []
        for weight in weights:
            decays = scope == "all" or weight.axes >= 2
            assert weight.shrunk_by == pytest.approx(cases.RATE * 0.5 if decays else 0, rel=1e-2), weight
        assert {weight.axes for weight in weights} >= {1, 2}
        assert any(weight.name.endswith("layernorm.weight") for weight in weights)


@pytest.mark.parametrize("without_weight", [[], [0, 1]], ids=["weights", "a-micro-step-without-weight"])
def test_by_micro_step_the_loss_is_the_references_mean_of_means(without_weight: list[int], tmp_path: Path) -> None:
    layout = ParallelLayout(data=2)
    settings = {"global_batch": 4, "drop_path": 0.0, "loss_denominator": "micro-step"}
    config = job(tmp_path, tmp_path, layout=layout.model_dump(), optimization=settings)
    ranks = on_grid(layout, cases.divide, config, without_weight)
    expected = 0.0
    for number in range(2):
        denominator = sum(rank.weights[number] for rank in ranks) / 2
        if denominator:
            expected += sum(rank.numerators[number] / denominator for rank in ranks) / 2 / 2
    assert [rank.result.loss for rank in ranks] == pytest.approx([expected] * 2, rel=1e-6)
    assert math.isfinite(ranks[0].result.grad_norm)


@pytest.mark.parametrize(
    ("layout", "at_fault"),
    [(ParallelLayout(tensor=2, data=2), [2, 3]), (ParallelLayout(pipeline=2, data=2), [1, 3])],
    ids=["tp2-dp2", "pp2-dp2"],
)
def test_a_pack_that_lacks_placeholders_stops_all_ranks_and_is_named_by_its_own(
    layout: ParallelLayout, at_fault: list[int], tmp_path: Path
) -> None:
    said = on_grid(layout, cases.meet_a_wrong_pack, job(tmp_path, tmp_path, layout=layout.model_dump()))
    for rank, words in enumerate(said):
        if rank in at_fault:
            assert "pack 1 has 47 <IMG_CONTEXT> placeholders" in words
            assert "pack-1-sample-0" in words
        else:
            assert words == "PeerRejectedBatchError"


def test_bf16_follows_fp32_within_its_precision(reference: list[Training], tmp_path: Path) -> None:
    settings = {"global_batch": 4, "drop_path": 0.3, "steps": 3, "precision": "bf16"}
    layout = ParallelLayout(tensor=2)
    half = job(tmp_path, tmp_path, layout=layout.model_dump(), optimization=settings)
    for (trained,) in on_grid(layout, cases.train, [half], 3):
        for ours, theirs in zip(trained.steps, reference[-1].steps, strict=True):
            assert math.isclose(ours.loss, theirs.loss, rel_tol=2e-2)
