"""A layout that cannot be is refused before a process starts, with what would do."""

from pathlib import Path

import pytest

from internvl_trainer.contract.job import JobConfig
from internvl_trainer.contract.manifest import ParallelLayout
from internvl_trainer.launch.plan import LaunchPlanError
from internvl_trainer.launch.process_grid import check_grid
from tests.integration.trainer.world import job

pytestmark = pytest.mark.unit


def laid_out(folder: Path, **axes: int) -> JobConfig:
    written = job(folder / "world", folder / "store")
    return written.model_copy(update={"layout": ParallelLayout(**axes)})


def test_as_many_processes_as_the_layout_needs_are_fine_said_or_not(tmp_path: Path) -> None:
    check_grid(laid_out(tmp_path, tensor=2), 2)
    check_grid(laid_out(tmp_path, tensor=2))


@pytest.mark.parametrize("processes", [1, 3])
def test_another_number_of_processes_is_refused(tmp_path: Path, processes: int) -> None:
    with pytest.raises(LaunchPlanError, match=rf"--processes is {processes}, but the layout \(tensor 2 .* needs 2;"):
        check_grid(laid_out(tmp_path, tensor=2), processes)


def test_a_tensor_parallel_size_that_heads_do_not_divide_by_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LaunchPlanError, match="by 5 tensor-parallel ranks; tensor can be 1, 2"):
        check_grid(laid_out(tmp_path, tensor=5))


def test_a_pipeline_that_cannot_balance_is_refused_in_the_words_of_a_job_file(tmp_path: Path) -> None:
    long = laid_out(tmp_path, pipeline=2)
    wasteful = long.model_copy(update={"data": long.data.model_copy(update={"pack_tiles": 4096})})
    with pytest.raises(LaunchPlanError, match=r"lower packTiles \(in a job file: data\.pack_tiles\)"):
        check_grid(wasteful)
