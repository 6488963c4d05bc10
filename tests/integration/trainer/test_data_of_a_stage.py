"""A stage's data across restarts, grids and damaged files: real ranks, real packs."""

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from internvl_trainer.checkpoint.state import StepMetrics, from_lines
from internvl_trainer.contract import keys
from internvl_trainer.contract.exit_codes import ExitCode
from internvl_trainer.contract.job import JobConfig
from internvl_trainer.contract.manifest import Manifest
from tests.integration.trainer import cases
from tests.integration.trainer.grid import on_ranks
from tests.integration.trainer.launching import launched
from tests.integration.trainer.world import COLOURS, job, write_world

pytestmark = pytest.mark.integration

STEPS = 6
BATCH = {"global_batch": 4, "steps": STEPS}
GRID = {"tensor": 2, "pipeline": 2, "data": 1}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("data") / "world")


def damaged(folder: Path, pictures: list[str]) -> Path:
    """A world in which some pictures are cut short: an index reads their headers and finds nothing wrong."""
    made = write_world(folder / "world")
    for name in pictures:
        picture = made / "pictures" / name
        picture.write_bytes(picture.read_bytes()[:-40])
    return made


def stage(world: Path, store: Path, **parts: Any) -> JobConfig:
    """A job that keeps every step, with packs small enough for several steps to an epoch."""
    data = {
        "meta": f"file://{world}/meta.json", "tokenizer": f"file://{world}/tokenizer",
        "pack_tokens": 160, "pack_tiles": 4,
    } | parts.pop("data", {})  # fmt: skip
    optimization = BATCH | parts.pop("optimization", {})
    return job(world, store, optimization=optimization, data=data, checkpoint={"every_steps": 1}, **parts)


def work(config: JobConfig, folder: Path) -> tuple[list[int], str]:
    """Run a job's ranks without a launcher: their exit codes, and their logs."""
    folder.mkdir(parents=True, exist_ok=True)
    file, log = folder / "job.json", folder / "log"
    file.write_bytes(config.to_bytes())
    codes = on_ranks(config.layout.world, cases.work, file, log, folder / "scratch")
    return codes, log.read_text()


def kept(config: JobConfig) -> list[int]:
    """The steps that an attempt has committed."""
    folder = Path(keys.stage_prefix(config.storage.uri, config.run.uid, config.stage).removeprefix("file://"))
    found = (keys.parse_manifest_key(str(path)) for path in folder.rglob(keys.MANIFEST_NAME))
    return sorted(key.step for key in found if key is not None and key.attempt == config.attempt)


def manifest(config: JobConfig, step: int) -> Manifest:
    return Manifest.from_bytes(_path(config, step).read_bytes())


def steps_of(config: JobConfig, step: int) -> tuple[StepMetrics, ...]:
    return from_lines((_path(config, step).parent / keys.METRICS_NAME).read_bytes())


def _path(config: JobConfig, step: int) -> Path:
    uri = keys.manifest_uri(config.storage.uri, config.run.uid, config.stage, step, config.attempt)
    return Path(uri.removeprefix("file://"))


def assert_same_training(steps: tuple[StepMetrics, ...], expected: tuple[StepMetrics, ...]) -> None:
    for mine, its in zip(steps, expected, strict=True):
        assert (mine.tokens, mine.tiles, mine.skipped) == (its.tokens, its.tiles, its.skipped)
        assert mine.loss == pytest.approx(its.loss, rel=1e-5)
        assert mine.grad_norm == pytest.approx(its.grad_norm, rel=1e-4)


@pytest.fixture(scope="module")
def whole(world: Path, tmp_path_factory: pytest.TempPathFactory) -> JobConfig:
    """A stage that nobody disturbed, on two data-parallel ranks."""
    folder = tmp_path_factory.mktemp("whole")
    config = stage(world, folder / "store", layout={"data": 2})
    codes, log = work(config, folder)
    assert codes == [0, 0], log
    assert manifest(config, STEPS).data.epoch > 0
    return config


@pytest.mark.parametrize(
    ("killed_after", "layout"),
    [(1, {"data": 4}), (2, {"tensor": 2, "data": 1}), (3, {"data": 1}), (5, {"pipeline": 2, "data": 2})],
)
def test_killed_after_any_step_and_resumed_on_any_grid_training_goes_on_as_if_undisturbed(
    killed_after: int, layout: dict[str, int], world: Path, whole: JobConfig, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    shutil.copytree(whole.storage.uri.removeprefix("file://"), store)
    first = stage(world, store, layout={"data": 2})
    for step in range(killed_after + 1, STEPS + 1):
        shutil.rmtree(_path(first, step).parent)
    second = stage(world, store, layout=layout, attempt=2)

    codes, log = work(second, tmp_path)

    assert codes == [0] * second.layout.world, log
    assert f"at step {killed_after} of {STEPS}" in log
    assert_same_training(steps_of(second, STEPS), steps_of(whole, STEPS))
    assert manifest(second, STEPS).data == manifest(whole, STEPS).data


def test_a_job_that_is_killed_in_a_step_goes_on_with_fewer_ranks_where_it_stood(
    world: Path, whole: JobConfig, tmp_path: Path
) -> None:
    first = stage(world, tmp_path / "store", layout={"data": 2})
    with launched(first, tmp_path) as nodes:
        nodes.wait_for("step 2/")
        os.kill(nodes.pid_of_rank(1), signal.SIGKILL)
        nodes.exit_codes()
    second = stage(world, tmp_path / "store", layout={"data": 1}, attempt=2)

    codes, log = work(second, tmp_path)

    assert codes == [0], log
    assert_same_training(steps_of(second, STEPS), steps_of(whole, STEPS))
    assert manifest(second, STEPS).data == manifest(whole, STEPS).data


@pytest.fixture(scope="module")
def with_damage(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, JobConfig]:
    """A stage on one rank over data with two damaged pictures, with a loader process."""
    folder = tmp_path_factory.mktemp("damage")
    world = damaged(folder, ["red-1.png", "white-2.png"])
    config = stage(world, folder / "store", data={"workers": 1})
    codes, log = work(config, folder)
    assert codes == [0], log
    assert "32 samples in 2 data sets, indexes built; 4 packs a step, loaded by 1 process, " in log
    return world, config


def test_a_damaged_picture_is_left_out_on_all_ranks_that_share_its_pack_and_training_goes_on(
    with_damage: tuple[Path, JobConfig], tmp_path: Path
) -> None:
    world, alone = with_damage
    config = stage(world, tmp_path / "store", layout=GRID)

    codes, log = work(config, tmp_path)

    assert codes == [0] * 4, log
    data = manifest(config, STEPS).data
    assert data.skipped == sum(each.skipped for each in steps_of(config, STEPS)) >= 2
    assert data.samples > 32  # more than an epoch
    assert_same_training(steps_of(config, STEPS), steps_of(alone, STEPS))
    assert data == manifest(alone, STEPS).data
    assert f"left out {data.skipped} samples" in log
    (named,) = {line.partition("left out: ")[2] for line in log.splitlines() if "red-1.png" in line}
    assert named.startswith("sample pictures:1")
    assert log.count(named) == log.count("red-1.png")


@pytest.mark.parametrize("workers", [0, 1])
def test_more_than_the_budget_ends_the_stage_on_all_ranks_and_leaves_its_last_checkpoint(
    workers: int, tmp_path: Path
) -> None:
    world = damaged(tmp_path, [f"{colour}-{number}.png" for colour in COLOURS for number in (0, 1)])
    config = stage(world, tmp_path / "store", layout=GRID, data={"workers": workers})

    codes, log = work(config, tmp_path)

    assert codes == [ExitCode.INVALID_CONFIG] * 4, log
    assert log.count("TooManyBadSamplesError: ") == 4
    assert "could not be read while training, limit 10" in log
    last = kept(config)[-1]
    assert 0 < manifest(config, last).data.skipped <= 10


def test_a_run_that_tolerates_nothing_ends_with_the_first_damaged_picture(tmp_path: Path) -> None:
    world = damaged(tmp_path, ["red-1.png"])
    config = stage(world, tmp_path / "store", data={"max_bad_fraction": 0})
    codes, log = work(config, tmp_path)
    assert codes == [ExitCode.INVALID_CONFIG], log
    assert "1 of" in log
    assert "limit 0" in log


ONE_BY_ONE = {"pack_tokens": 160, "pack_tiles": 1}


def of_pictures_alone(world: Path) -> Path:
    """A meta JSON whose packs hold one picture each, at one tile a pack."""
    meta = world / "pictures.json"
    meta.write_text('{"pictures": {"root": "pictures", "annotation": "pictures.jsonl", "max_dynamic_patch": 1}}')
    return meta


def test_a_pack_that_loses_all_its_samples_is_trained_on_as_nothing(tmp_path: Path) -> None:
    world = damaged(tmp_path, ["red-0.png", "green-1.png", "blue-2.png"])
    data = ONE_BY_ONE | {"meta": f"file://{of_pictures_alone(world)}"}
    folders = {1: tmp_path / "one", 4: tmp_path / "grid"}
    layouts = {1: {"data": 1}, 4: {"tensor": 2, "pipeline": 2}}
    trained = {}
    for ranks, folder in folders.items():
        config = stage(world, folder / "store", layout=layouts[ranks], data=data, partition={"sequence": ranks > 1})
        codes, log = work(config, folder)
        assert codes == [0] * ranks, log
        trained[ranks] = steps_of(config, STEPS)
        assert manifest(config, STEPS).data.skipped == 3
    assert_same_training(trained[4], trained[1])


def test_a_global_batch_without_any_sample_left_is_refused_with_its_reason(tmp_path: Path) -> None:
    world = damaged(tmp_path, [f"{colour}-{number}.png" for colour in COLOURS for number in (0, 1, 2)])
    data = ONE_BY_ONE | {"meta": f"file://{of_pictures_alone(world)}"}
    config = stage(world, tmp_path / "store", layout=GRID, data=data)
    codes, log = work(config, tmp_path)
    assert codes == [ExitCode.INVALID_CONFIG] * 4, log
    assert "no token of the global batch has loss weight" in log
    assert "4 of its samples could not be read" in log
