"""Replicas that share out the optimizer's state train as one process does, and go on from anybody's checkpoint."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from internvl_trainer.contract.job import JobConfig
from internvl_trainer.contract.manifest import ParallelLayout
from internvl_trainer.engine.protocol import StepResult
from tests.integration.trainer import optimizer_cases as cases
from tests.integration.trainer.grid import on_grid
from tests.integration.trainer.held import Held, whole
from tests.integration.trainer.optimizer_cases import Story
from tests.integration.trainer.world import job

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

SINGLE = ParallelLayout()
TWO = ParallelLayout(data=2)
TRAINED = {
    "everything": ("vision", "projector", "language"),
    "the projector alone": ("projector",),
    "vision and projector": ("vision", "projector"),
}
STEPS = 20
BEFORE, AFTER = 3, 3


class Way(NamedTuple):
    """A process grid, and how its replicas spread the optimizer's state."""

    layout: ParallelLayout
    optimizer: str = "sharded"

    def __str__(self) -> str:
        return f"tp{self.layout.tensor}-pp{self.layout.pipeline}-dp{self.layout.data}-{self.optimizer}"


def config(
    folder: Path, way: Way, trained: str = "everything", precision: str = "fp32", **optimization: float
) -> JobConfig:
    settings = {"global_batch": 4, "drop_path": 0.3, "steps": STEPS, "precision": precision}
    settings |= {"weight_decay": 0.05, "decay_scope": "matrices"} | optimization  # two parameter groups
    parts: dict[str, Any] = {"layout": way.layout.model_dump(), "partition": {"optimizer": way.optimizer}}
    stage = f"{trained} in {precision}".replace(" ", "-")
    return job(folder, folder, stage=stage, trainable=TRAINED[trained], optimization=settings, **parts)


def all_jobs(folder: Path, way: Way) -> list[JobConfig]:
    """A job in float32 for each choice of trained parts, and one of everything in bf16."""
    return [*(config(folder, way, trained) for trained in TRAINED), config(folder, way, precision="bf16")]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[list[StepResult], Held]]:
    """All jobs in one process."""
    (trained,) = on_grid(SINGLE, cases.train, all_jobs(tmp_path_factory.mktemp("alone"), Way(SINGLE)), STEPS)
    return trained


@pytest.mark.parametrize("way", [Way(TWO), Way(ParallelLayout(pipeline=2, data=2))], ids=str)
def test_twenty_steps_are_those_of_one_process(
    way: Way, alone: list[tuple[list[StepResult], Held]], tmp_path: Path
) -> None:
    for trained in on_grid(way.layout, cases.train, all_jobs(tmp_path, way), STEPS):
        for (ours, _), (theirs, _), spec in zip(trained, alone, all_jobs(tmp_path, way), strict=True):
            relative = {"fp32": 1e-5, "bf16": 1e-2}[spec.optimization.precision]
            assert [each.loss for each in ours] == pytest.approx([each.loss for each in theirs], rel=relative)
            norms = [each.grad_norm for each in ours]
            assert norms == pytest.approx([each.grad_norm for each in theirs], rel=10 * relative)


def test_each_of_two_replicas_takes_half_the_memory(alone: list[tuple[list[StepResult], Held]], tmp_path: Path) -> None:
    shared, replicated = (
        on_grid(TWO, cases.train, all_jobs(tmp_path, way), 1) for way in (Way(TWO), Way(TWO, "replicated"))
    )
    for number, (_, one) in enumerate(alone):
        assert [rank[number][1].optimizer_bytes for rank in replicated] == [one.optimizer_bytes] * 2
        halves = [rank[number][1].optimizer_bytes for rank in shared]
        assert sum(halves) == one.optimizer_bytes
        assert max(halves) <= one.optimizer_bytes / 2 + 12 * 1024  # buffers end at round numbers


class Written(NamedTuple):
    """Jobs that were saved in the middle and went on."""

    store: Path
    way: Way
    jobs: list[tuple[str, str]]
    ranks: list[list[Story]]
    """By rank, then by job."""


def write(store: Path, way: Way, jobs: list[tuple[str, str]], *, earlier: bool = False) -> Written:
    configs = [config(store, way, *each) for each in jobs]
    options = {"before": BEFORE, "after": AFTER, "earlier": earlier}
    return Written(store, way, jobs, on_grid(way.layout, cases.save, configs, store / "scratch", **options))


def check_resumed(written: Written, way: Way, scratch: Path) -> None:
    """Resume another way: to the last bit what was saved, then the writer's steps and weights."""
    configs = [config(written.store, way, *each) for each in written.jobs]
    ranks = on_grid(way.layout, cases.resume, configs, scratch, after=AFTER)
    for number, (_, precision) in enumerate(written.jobs):
        ours, theirs = ([rank[number] for rank in story] for story in (ranks, written.ranks))
        assert {story.at_checkpoint.step for story in ours} == {BEFORE}
        assert {story.in_the_end.step for story in ours} == {BEFORE + AFTER}
        check_same(whole(each.at_checkpoint for each in ours), whole(each.at_checkpoint for each in theirs))
        exact = way == written.way
        relative = 0 if exact else {"fp32": 1e-5, "bf16": 1e-2}[precision]
        expected = [each.loss for each in theirs[0].then]
        assert [each.loss for each in ours[0].then] == pytest.approx(expected, rel=relative, abs=0)
        if exact or precision == "fp32":  # in bf16 weights whose gradient is rounding noise go their own ways
            in_the_end = (whole(each.in_the_end for each in story) for story in (ours, theirs))
            check_same(*in_the_end, relative=0 if exact else 1e-4)


def check_same(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray], *, relative: float = 0) -> None:
    """Compare whole tensors, by the norm of their difference: an element whose gradient is noise may stray."""
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        distance, scale = (float(np.linalg.norm(each)) for each in (tensor - theirs[name], theirs[name]))
        assert distance <= relative * scale, name


MIDDLE = Way(ParallelLayout(tensor=2, data=2))
OTHERS = [
    MIDDLE,
    Way(ParallelLayout(pipeline=2, data=2)),
    Way(ParallelLayout(data=4)),
    Way(SINGLE),
    Way(TWO, "replicated"),
]


@pytest.fixture(scope="module")
def middle(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """Everything in both precisions, and the projector alone, on two tensor ranks and two replicas."""
    jobs = [("everything", "fp32"), ("the projector alone", "fp32"), ("everything", "bf16")]
    return write(tmp_path_factory.mktemp("middle"), MIDDLE, jobs)


@pytest.mark.parametrize("way", OTHERS, ids=str)
def test_a_job_goes_on_from_shared_out_state_on_any_grid(way: Way, middle: Written, tmp_path: Path) -> None:
    check_resumed(middle, way, tmp_path)


@pytest.mark.parametrize("earlier", [False, True], ids=["ours", "megatrons"])
def test_a_job_goes_on_from_replicated_state_with_its_state_shared_out(earlier: bool, tmp_path: Path) -> None:
    jobs = [("everything", "fp32"), ("everything", "bf16")]
    written = write(tmp_path / "store", Way(TWO, "replicated"), jobs, earlier=earlier)
    check_resumed(written, MIDDLE, tmp_path)
    check_resumed(written, Way(TWO, "replicated"), tmp_path)


def test_ranks_without_anything_to_train_resume_too(tmp_path: Path) -> None:
    way = Way(ParallelLayout(pipeline=2, data=2))
    written = write(tmp_path / "store", way, [("the projector alone", "fp32")])
    assert [bool(rank[0].at_checkpoint.optimizer_bytes) for rank in written.ranks] == [True, True, False, False]
    check_resumed(written, way, tmp_path)


def test_a_pipeline_stage_that_trains_nothing_clips_nothing(tmp_path: Path) -> None:
    way = Way(ParallelLayout(pipeline=2))
    clipped = config(tmp_path, way, "the projector alone", clip_grad_norm=1e-6)
    first, second = on_grid(way.layout, cases.train_by_fused_kernels, clipped, 1)
    assert first == second
    assert first[0].grad_norm > 1e-6


def test_on_its_own_grid_no_replica_reads_what_another_one_wrote(middle: Written) -> None:
    (folder,) = (found.parent for found in middle.store.glob("**/everything-in-bf16/**/.metadata"))
    needed = on_grid(MIDDLE.layout, cases.files_needed, config(middle.store, MIDDLE, precision="bf16"), folder)
    for rank, files in enumerate(needed):
        writers = {int(name.split("_")[2]) for name in files if name.startswith("optimizer__")}
        first_of_its_replica = rank - rank % MIDDLE.layout.tensor  # it writes what all tensor ranks have alike
        assert writers == {rank, first_of_its_replica}
