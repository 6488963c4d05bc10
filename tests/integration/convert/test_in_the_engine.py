"""An imported model, loaded and saved by the engine on a process grid, is exported with the bits that it came with."""

from pathlib import Path
from typing import Any

import pytest

from internvl_trainer.contract.base import Component
from internvl_trainer.contract.job import JobConfig
from internvl_trainer.contract.manifest import Manifest, ParallelLayout
from tests.integration.convert import cases, folders
from tests.integration.convert.commands import init_of, manifest_of, ref_of, run_export, run_import
from tests.integration.trainer.grid import on_grid
from tests.integration.trainer.world import job

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

GRIDS = [ParallelLayout(), ParallelLayout(tensor=2), ParallelLayout(tensor=2, pipeline=2)]


def _job(report: dict[str, Any], store: Path, layout: ParallelLayout, precision: str = "fp32") -> JobConfig:
    return job(
        store,
        store,
        model=manifest_of(report).model.model_dump(),
        layout=layout.model_dump(),
        init=init_of(report),
        optimization={"precision": precision, "global_batch": 2},
    )


@pytest.mark.parametrize("layout", GRIDS, ids=lambda grid: f"tp{grid.tensor}-pp{grid.pipeline}")
@pytest.mark.parametrize(("vision", "language"), [("300m", "qwen2.5"), ("300m", "internlm2.5"), ("6b", "qwen2.5")])
def test_any_grid_gives_back_what_was_imported(
    vision: str, language: str, layout: ParallelLayout, tmp_path: Path
) -> None:
    source = folders.write_native(tmp_path / "source", folders.geometry(vision, language))
    report = run_import(source, tmp_path / "checkpoint")
    saved = on_grid(layout, cases.start_and_save, _job(report, tmp_path / "store", layout), tmp_path / "scratch")[0]
    run_export(saved.uri, tmp_path / "out")
    folders.assert_same_tensors(tmp_path / "out", folders.tensors_of(source))


@pytest.mark.parametrize("tensor", [4, 8])
def test_heads_that_are_padded_inside_leave_no_trace(tensor: int, tmp_path: Path) -> None:
    model = folders.geometry("6b", "qwen2.5")
    wide = model.language.model_copy(update={"hidden": 64, "heads": 8, "kv_heads": 8, "head_dim": 8})
    source = folders.write_native(tmp_path / "source", model.model_copy(update={"language": wide}))
    report = run_import(source, tmp_path / "checkpoint")
    layout = ParallelLayout(tensor=tensor)
    saved = on_grid(layout, cases.start_and_save, _job(report, tmp_path / "store", layout), tmp_path / "scratch")[0]
    run_export(saved.uri, tmp_path / "out")
    folders.assert_same_tensors(tmp_path / "out", folders.tensors_of(source))


def test_key_value_heads_that_ranks_repeat_are_written_once(tmp_path: Path) -> None:
    source = folders.write_native(tmp_path / "source", folders.geometry("300m", "qwen2.5"))
    report = run_import(source, tmp_path / "checkpoint")
    layout = ParallelLayout(tensor=4)
    saved = on_grid(layout, cases.start_and_save, _job(report, tmp_path / "store", layout), tmp_path / "scratch")[0]
    run_export(saved.uri, tmp_path / "out")
    folders.assert_same_tensors(tmp_path / "out", folders.tensors_of(source))


def test_bf16_weights_stay_what_they_are(tmp_path: Path) -> None:
    import torch

    model = folders.geometry("300m", "internlm2.5")
    source = folders.write_native(tmp_path / "source", model, dtype=torch.bfloat16)
    report = run_import(source, tmp_path / "checkpoint")
    layout = ParallelLayout(tensor=2)
    work = _job(report, tmp_path / "store", layout, precision="bf16")
    saved = on_grid(layout, cases.start_and_save, work, tmp_path / "scratch")[0]
    run_export(saved.uri, tmp_path / "out")
    folders.assert_same_tensors(tmp_path / "out", folders.tensors_of(source))


def test_what_a_run_started_from_stays_on_record(tmp_path: Path) -> None:
    source = folders.write_native(tmp_path / "source", folders.geometry("300m", "qwen2.5"))
    report = run_import(source, tmp_path / "checkpoint")
    layout = ParallelLayout()
    saved = on_grid(layout, cases.start_and_save, _job(report, tmp_path / "store", layout), tmp_path / "scratch")[0]
    manifest = Manifest.from_bytes(Path(saved.uri.removeprefix("file://")).read_bytes())
    assert manifest.parents == init_of(report)
    (link,) = manifest.vision_lineage
    assert (link.stage, link.step, link.manifest) == ("import", 0, ref_of(report))
    assert manifest_of(report).imported[Component.VISION].uri == str(source)
