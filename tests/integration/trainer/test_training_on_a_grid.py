"""Training is the same computation on every process grid, and stops as one where it must stop."""

import math
from itertools import combinations
from pathlib import Path

import pytest

from internvl_trainer.contract.base import Component
from internvl_trainer.contract.job import JobConfig
from internvl_trainer.contract.manifest import ParallelLayout
from tests.integration.trainer import cases
from tests.integration.trainer.cases import Training
from tests.integration.trainer.grid import on_grid
from tests.integration.trainer.world import job

pytestmark = pytest.mark.integration

SINGLE = ParallelLayout()
GRIDS = [ParallelLayout(tensor=2, pipeline=2), ParallelLayout(pipeline=2, data=2), ParallelLayout(tensor=2, data=2)]
FREEZES = [parts for size in (1, 2, 3) for parts in combinations(Component, size)]
STEPS = 3


def jobs(layout: ParallelLayout, folder: Path) -> list[JobConfig]:
    """One job per choice of trainable components, with drop path, on packs with and without images."""
    settings = {"global_batch": 4, "drop_path": 0.3, "steps": STEPS}
    return [
        job(folder, folder, layout=layout.model_dump(), trainable=parts, optimization=settings) for parts in FREEZES
    ]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> list[Training]:
    """The same jobs in one process."""
    (trained,) = on_grid(SINGLE, cases.train, jobs(SINGLE, tmp_path_factory.mktemp("single")), STEPS)
    return trained


def shape(layout: ParallelLayout) -> str:
    return f"tp{layout.tensor}-pp{layout.pipeline}-dp{layout.data}"


@pytest.mark.parametrize("layout", GRIDS, ids=shape)
def test_losses_and_gradient_norms_do_not_depend_on_the_grid(
    layout: ParallelLayout, reference: list[Training], tmp_path: Path
) -> None:
    per_rank = on_grid(layout, cases.train, jobs(layout, tmp_path), STEPS)
    for number, expected in enumerate(reference):
        for trained in (rank[number] for rank in per_rank):
            for ours, theirs in zip(trained.steps, expected.steps, strict=True):
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


def test_text_alone_gives_vision_gradients_of_exactly_zero_and_weight_decay_reaches_every_weight(
    tmp_path: Path,
) -> None:
    layout = ParallelLayout(tensor=2)
    settings = {"global_batch": 2, "drop_path": 0.3, "weight_decay": 0.5}
    config = job(tmp_path, tmp_path, layout=layout.model_dump(), optimization=settings)
    for weights in on_grid(layout, cases.train_without_images, config):
        assert [weight for weight in weights if weight.largest_gradient != 0 or not weight.decayed] == []
        assert any(weight.name.endswith("layernorm.weight") for weight in weights)


def test_a_loss_that_is_no_number_stops_all_ranks_before_anything_moves(tmp_path: Path) -> None:
    layout = ParallelLayout(pipeline=2, data=2)
    answers = on_grid(layout, cases.meet_a_nan, jobs(layout, tmp_path)[-1])
    assert answers == [("NonFiniteLossError", True)] * 4


def test_a_pack_that_lacks_placeholders_stops_all_ranks_and_is_named_by_its_own(tmp_path: Path) -> None:
    layout = ParallelLayout(tensor=2, data=2)
    said = on_grid(layout, cases.meet_a_wrong_pack, job(tmp_path, tmp_path, layout=layout.model_dump()))
    assert said[:2] == ["PeerRejectedBatchError"] * 2
    assert all("pack 1 has 47 <IMG_CONTEXT> placeholders" in words and "pack-1-sample-0" in words for words in said[2:])


def test_recompute_changes_nothing_not_even_what_drop_path_drops(reference: list[Training], tmp_path: Path) -> None:
    layout = ParallelLayout(tensor=2)
    for trained in on_grid(layout, cases.train_with_recompute, jobs(layout, tmp_path)[-1], STEPS):
        for ours, theirs in zip(trained.steps, reference[-1].steps, strict=True):
            assert ours.loss == pytest.approx(theirs.loss, rel=1e-5)
            assert ours.grad_norm == pytest.approx(theirs.grad_norm, rel=5e-5)


def test_bf16_follows_fp32_within_its_precision(reference: list[Training], tmp_path: Path) -> None:
    settings = {"global_batch": 4, "drop_path": 0.3, "steps": STEPS, "precision": "bf16"}
    layout = ParallelLayout(tensor=2)
    half = job(tmp_path, tmp_path, layout=layout.model_dump(), optimization=settings)
    for (trained,) in on_grid(layout, cases.train, [half], STEPS):
        for ours, theirs in zip(trained.steps, reference[-1].steps, strict=True):
            assert math.isclose(ours.loss, theirs.loss, rel_tol=2e-2)
