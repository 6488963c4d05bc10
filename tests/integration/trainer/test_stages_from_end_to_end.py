"""Whole stages as pods run them: two nodes of two processes, TP2 x PP2, data and checkpoints in files."""

import hashlib
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from internvl_trainer.checkpoint.state import from_lines
from internvl_trainer.contract import keys
from internvl_trainer.contract.base import Component
from internvl_trainer.contract.catalog import MODELS
from internvl_trainer.contract.exit_codes import ExitCode
from internvl_trainer.contract.job import JobConfig
from internvl_trainer.contract.manifest import Manifest, ManifestRef
from tests.integration.trainer import cases
from tests.integration.trainer.grid import on_ranks
from tests.integration.trainer.launching import launched, run
from tests.integration.trainer.world import job, write_world

pytestmark = pytest.mark.integration

TINY = MODELS["tiny-8b-like"]
GRID = {"tensor": 2, "pipeline": 2, "data": 1}
STEPS = 6


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("data") / "world")


def manifest_of(config: JobConfig, step: int) -> Manifest:
    return Manifest.from_bytes(_manifest_path(config, step).read_bytes())


def reference_to(config: JobConfig, step: int) -> ManifestRef:
    return reference(_manifest_path(config, step))


def reference(manifest: Path) -> ManifestRef:
    return ManifestRef(uri=f"file://{manifest}", sha256=hashlib.sha256(manifest.read_bytes()).hexdigest())


def work(config: JobConfig, folder: Path, *, processes: int | None = None) -> tuple[list[int], str]:
    """Run a job's workers without a launcher: their exit codes, and the errors in their logs."""
    file, log = folder / "job.json", folder / "log"
    file.write_bytes(config.to_bytes())
    codes = on_ranks(processes or config.layout.world, cases.work, file, log, folder / "scratch")
    return codes, "\n".join(line for line in log.read_text().splitlines() if " ERROR " in line)


def curve(config: JobConfig, step: int) -> list[tuple[float, float]]:
    """Loss and gradient norm of each step, to the last bit."""
    lines = (_manifest_path(config, step).parent / keys.METRICS_NAME).read_bytes()
    return [(metrics.loss, metrics.grad_norm) for metrics in from_lines(lines)]


def _manifest_path(config: JobConfig, step: int) -> Path:
    uri = keys.manifest_uri(config.storage.uri, config.run.uid, config.stage, step, config.attempt)
    return Path(uri.removeprefix("file://"))


def _newest(config: JobConfig) -> Path:
    """The manifest of the last step that this attempt committed."""
    committed = [path for step in range(1, 10) if (path := _manifest_path(config, step)).exists()]
    return committed[-1]


@pytest.fixture(scope="module")
def stage_one(world: Path, tmp_path_factory: pytest.TempPathFactory) -> JobConfig:
    """A finished first stage that offers its vision encoder."""
    folder = tmp_path_factory.mktemp("stage-one")
    config = job(
        world, folder / "store", layout=GRID, optimization={"steps": STEPS},
        checkpoint={"every_steps": 3, "publish": ("vision",)},
    )  # fmt: skip
    codes, output = run(config, folder, nodes=2)
    assert codes == [0, 0], output
    assert f"step {STEPS}/{STEPS}" in output
    return config


def test_a_stage_learns_and_ends_with_a_final_manifest(stage_one: JobConfig) -> None:
    final = manifest_of(stage_one, STEPS)
    assert final.is_final
    assert final.data.packs == STEPS * stage_one.optimization.global_batch
    assert final.loss.last < 0.8 * final.loss.first
    assert set(final.components) == {"vision", "projector", "language", "optimizer", "state"}


def test_a_stage_that_its_tokens_end_has_a_final_manifest_and_takes_no_further_step(
    world: Path, tmp_path: Path
) -> None:
    settings = {"steps": 9, "stop_after_tokens": 1500}
    first = job(world, tmp_path / "store", optimization=settings, checkpoint={"every_steps": 9, "publish": ("vision",)})
    assert work(first, tmp_path) == ([0], "")
    steps = from_lines(_newest(first).with_name(keys.METRICS_NAME).read_bytes())
    assert sum(each.tokens for each in steps) >= 1500 > sum(each.tokens for each in steps[:-1])
    final = manifest_of(first, len(steps))
    assert (final.step, final.total_steps, final.is_final) == (len(steps), len(steps), True)
    assert len(steps) < 9

    second = first.model_copy(update={"attempt": 2})
    assert work(second, tmp_path) == ([0], "")
    again = manifest_of(second, len(steps))
    assert again.is_final
    assert curve(second, len(steps)) == curve(first, len(steps))


def test_a_stopped_stage_goes_on_bit_for_bit_where_it_stood(world: Path, stage_one: JobConfig, tmp_path: Path) -> None:
    first = stage_one.model_copy(update={"storage": job(world, tmp_path / "store").storage})
    with launched(first, tmp_path, nodes=2) as nodes:
        nodes.wait_for("step 2/")
        nodes.launchers[1].send_signal(signal.SIGTERM)
        assert nodes.exit_codes() == [ExitCode.INTERRUPTED] * 2, nodes.output
        assert "stopped by SIGTERM after step" in nodes.output
    second = first.model_copy(update={"attempt": 2})
    codes, output = run(second, tmp_path, nodes=2)
    assert codes == [0, 0], output
    assert "resumed from" in output
    assert curve(second, STEPS) == curve(stage_one, STEPS)


def test_the_next_stage_starts_from_the_last_at_another_layout(
    world: Path, stage_one: JobConfig, tmp_path: Path
) -> None:
    source = reference_to(stage_one, STEPS)
    trained = manifest_of(stage_one, STEPS)
    config = job(
        world, tmp_path / "store", stage="stage-2", layout={"tensor": 1, "pipeline": 2, "data": 1},
        trainable=("projector",), optimization={"steps": 2, "drop_path": 0.0, "peak_lr": 1e-5},
        init={part: source.model_dump() for part in ("vision", "projector", "language")},
    )  # fmt: skip
    assert work(config, tmp_path) == ([0, 0], "")
    final = manifest_of(config, 2)
    assert final.loss.first < 1.2 * trained.loss.last
    assert {part.value: ref.uri for part, ref in final.parents.items()} == dict.fromkeys(
        ("vision", "projector", "language"), source.uri
    )
    assert not any("vision_model" in name or "language_model" in name for name in final.components["optimizer"])


def test_another_run_starts_from_the_published_vision_encoder(
    world: Path, stage_one: JobConfig, tmp_path: Path
) -> None:
    uri = keys.component_uri(stage_one.storage.uri, "uid-1", stage_one.stage, 1, Component.VISION)
    offer = reference(Path(uri.removeprefix("file://")))
    config = job(
        world, tmp_path / "store", run={"uid": "uid-2", "namespace": "default", "name": "smaller"},
        model=MODELS["tiny-1b-like"].model_dump(), trainable=("projector",), optimization={"steps": 1},
        init={"vision": offer.model_dump()},
    )  # fmt: skip
    assert work(config, tmp_path) == ([0], "")
    lineage = manifest_of(config, 1).vision_lineage
    assert [(link.run.uid, link.stage, link.step) for link in lineage] == [("uid-1", "stage-1", STEPS)]


TOP_HEAVY = TINY.model_copy(update={"vision": TINY.vision.model_copy(update={"layers": 40})})
NOWHERE = {"uri": "file:///nowhere/MANIFEST.json", "sha256": "0" * 64}
HOPELESS = {
    "a loss that explodes": (
        {"layout": {"pipeline": 2}, "optimization": {"peak_lr": 1e30, "steps": 5}},
        ExitCode.NON_FINITE_LOSS,
        "no parameter was changed",
    ),
    "a pipeline that waits for its first stage": (
        {"layout": {"pipeline": 2}, "model": TOP_HEAVY.model_dump()},
        ExitCode.INVALID_CONFIG,
        "2 pipeline stages cannot balance: the vision side of the first stage costs as much as",
    ),
    "a source that does not exist": (
        {"init": {"vision": NOWHERE}},
        ExitCode.INVALID_CHECKPOINT,
        "file:///nowhere/MANIFEST.json",
    ),
    "data that does not exist": (
        {"data": {"meta": "file:///nowhere/meta.json", "tokenizer": "file:///nowhere"}},
        ExitCode.INVALID_CONFIG,
        "nowhere",
    ),
}


@pytest.mark.parametrize(("changes", "code", "words"), HOPELESS.values(), ids=HOPELESS)
def test_what_cannot_work_says_so_and_gives_its_code(
    changes: dict[str, Any], code: ExitCode, words: str, world: Path, tmp_path: Path
) -> None:
    config = job(world, tmp_path / "store", **changes)
    codes, errors = work(config, tmp_path)
    assert codes == [code] * config.layout.world
    assert words in errors


def test_more_processes_than_the_layout_has_are_refused(world: Path, tmp_path: Path) -> None:
    codes, errors = work(job(world, tmp_path / "store"), tmp_path, processes=2)
    assert codes == [ExitCode.INVALID_CONFIG] * 2
    assert "2 processes were started, but the layout tensor 1 x pipeline 1 x data 1 needs 1" in errors


def test_a_killed_worker_ends_the_job_and_its_peers_know_why(world: Path, tmp_path: Path) -> None:
    config = job(world, tmp_path / "store", layout=GRID, optimization={"steps": 500}, checkpoint={"every_steps": 500})
    with launched(config, tmp_path, nodes=2) as nodes:
        nodes.wait_for("step 2/")
        os.kill(nodes.pid_of_rank(3), signal.SIGKILL)
        assert nodes.exit_codes() == [ExitCode.PEER_LOST, 128 + signal.SIGKILL], nodes.output
        assert "PeerLostError" in nodes.output
