"""Packs loaded by real processes: the same as a thread's, errors as they were, no hang and no orphan."""

import os
import signal
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from hack.cluster.object_store import ObjectStore as S3Server
from internvl_trainer.contract.data_position import DataPosition
from internvl_trainer.contract.exit_codes import ExitCode
from internvl_trainer.contract.job import JobConfig
from internvl_trainer.data import Pack
from internvl_trainer.data.errors import ImageUnreadableError, TooManyBadSamplesError
from internvl_trainer.storage import ObjectStore, StoreUnavailableError, open_store
from internvl_trainer.train.batches import Batch
from internvl_trainer.train.workers import LoaderWorkerDiedError
from tests.integration.trainer.feed_cases import Misbehaving, fed, open_stream
from tests.integration.trainer.world import job, write_world

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

STEPS = 9
"""More than an epoch at four packs a step."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of which two are cut short behind their headers."""
    folder = write_world(tmp_path_factory.mktemp("data") / "world")
    for name in ("red-1.png", "blue-2.png"):
        cut_short(folder / "pictures" / name)
    return folder


def cut_short(picture: Path) -> None:
    picture.write_bytes(picture.read_bytes()[:-40])


def packs_of(steps: list[Batch]) -> list[Pack]:
    return [pack for step in steps for pack in step.packs]


def assert_same(packs: list[Pack], expected: list[Pack]) -> None:
    for mine, its in zip(packs, expected, strict=True):
        assert (mine.index, mine.sample_ids, mine.masked) == (its.index, its.sample_ids, its.masked)
        assert [str(fault) for fault in mine.skipped] == [str(fault) for fault in its.skipped]
        for name in ("tokens_S", "labels_S", "weights_S", "cu_seqlens", "tiles_NHWC"):
            assert getattr(mine, name).dtype == getattr(its, name).dtype
            assert np.array_equal(getattr(mine, name), getattr(its, name))


def taken(config: JobConfig, cache: Path, workers: int, *, start: DataPosition | None = None) -> list[Batch]:
    with fed(open_stream(config, cache), workers, start=start) as steps:
        return list(islice(steps, STEPS))


def test_processes_give_the_same_packs_as_a_thread_in_the_same_order(world: Path, tmp_path: Path) -> None:
    config = job(world, tmp_path)
    alone, helped = taken(config, tmp_path, 0), taken(config, tmp_path, 2)
    assert [step.position for step in helped] == [step.position for step in alone]
    assert_same(packs_of(helped), packs_of(alone))
    assert alone[-1].position.epoch > 0
    left_out = {str(fault.sample).split()[0] for pack in packs_of(helped) for fault in pack.skipped}
    assert len(left_out) == 2
    assert all(isinstance(fault, ImageUnreadableError) for pack in packs_of(helped) for fault in pack.skipped)


def test_resuming_in_the_middle_gives_the_rest_of_the_stream(world: Path, tmp_path: Path) -> None:
    config = job(world, tmp_path)
    whole = taken(config, tmp_path, 2)
    rest = taken(config, tmp_path, 2, start=whole[3].position)
    assert_same(packs_of(rest)[: 4 * (STEPS - 4)], packs_of(whole)[16:])


def test_all_data_in_a_bucket_gives_the_packs_of_the_same_data_in_files(
    s3_server: S3Server, world: Path, tmp_path: Path
) -> None:
    store = open_store(endpoint_url=s3_server.endpoint)
    upload(store, world, "s3://checkpoints/world")
    storage = {"uri": "s3://checkpoints/runs", "endpoint_url": s3_server.endpoint}
    local = job(world, tmp_path)
    data = {
        "meta": "s3://checkpoints/world/meta.json",
        "tokenizer": "s3://checkpoints/world/tokenizer",
        "index": "s3://checkpoints/indexes",
    }
    remote = local.model_copy(
        update={"data": local.data.model_copy(update=data), "storage": local.storage.model_copy(update=storage)}
    )
    expected = packs_of(taken(local, tmp_path / "local", 0))
    for workers in (0, 2):
        got = packs_of(taken(remote, tmp_path / "remote", workers))
        for mine, its in zip(got, expected, strict=True):
            assert (mine.sample_ids, mine.masked) == (its.sample_ids, its.masked)
            assert np.array_equal(mine.tokens_S, its.tokens_S)
            assert mine.tiles_NHWC is not None
            assert its.tiles_NHWC is not None
            assert np.array_equal(mine.tiles_NHWC, its.tiles_NHWC)


def upload(store: ObjectStore, folder: Path, uri: str) -> None:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            store.upload(path, f"{uri}/{path.relative_to(folder)}")


@pytest.mark.parametrize(
    ("misdeed", "kind", "words", "code"),
    [
        ("data error", TooManyBadSamplesError, "9 of 10 samples are unusable", ExitCode.INVALID_CONFIG),
        ("store error", StoreUnavailableError, "get s3://bucket/key: SlowDown", ExitCode.STORE_UNAVAILABLE),
        ("unpicklable error", RuntimeError, "UnpicklableError: something with a lock", None),
        ("exit", LoaderWorkerDiedError, r"loader process \d+ ended with code 3", ExitCode.PEER_LOST),
    ],
)
def test_an_error_of_a_process_arrives_with_its_type_and_its_exit_code(
    misdeed: str, kind: type[Exception], words: str, code: ExitCode | None
) -> None:
    with fed(Misbehaving(6, misdeed), 2) as steps:
        assert [pack.index for pack in next(steps).packs] == [0, 1, 2, 3]
        with pytest.raises(kind, match=words) as caught:
            next(steps)
    assert getattr(caught.value, "exit_code", None) == code
    if kind is not LoaderWorkerDiedError:
        assert "feed_cases.py" in caught.value.__notes__[0]


def test_a_killed_process_is_an_error_at_once_though_its_pack_never_comes() -> None:
    with fed(Misbehaving(4, "hang"), 2) as steps:
        # Packs go around, so that the process of the first pack has the fifth in hand.
        first = int(next(steps).packs[0].tokens_S[0])
        os.kill(first, signal.SIGKILL)
        with pytest.raises(LoaderWorkerDiedError, match=rf"process {first} was killed by signal 9 \(SIGKILL") as caught:
            next(steps)
    assert caught.value.exit_code == ExitCode.PEER_LOST
    assert "resources.memory" in str(caught.value)


def test_leaving_the_feed_ends_its_processes() -> None:
    with fed(Misbehaving(-1, ""), 2) as steps:
        pids = {int(pack.tokens_S[0]) for pack in next(steps).packs}
    assert len(pids) == 2
    wait_until_gone(pids)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_processes_end_with_their_trainer(how: signal.Signals, tmp_path: Path) -> None:
    report = tmp_path / "pids"
    trainer = subprocess.Popen([sys.executable, "-m", "tests.integration.trainer.feed_cases", "2", str(report)])
    try:
        wait_for(report)
        workers = {int(pid) for pid in report.read_text().split()}
        of_threads = Path(f"/proc/{trainer.pid}/task").glob("*/children")
        servers = {int(pid) for children in of_threads for pid in children.read_text().split()}
        assert len(workers) == 2
        assert servers
        trainer.send_signal(how)
        assert trainer.wait(20) == -how
        wait_until_gone(workers | servers)
    finally:
        trainer.kill()
        trainer.wait()


def wait_for(file: Path) -> None:
    deadline = time.monotonic() + 60
    while not (file.exists() and file.read_text()):
        assert time.monotonic() < deadline, "it never began"
        time.sleep(0.05)


def wait_until_gone(pids: set[int]) -> None:
    deadline = time.monotonic() + 20
    while left := {pid for pid in pids if is_running(pid)}:
        assert time.monotonic() < deadline, f"{left} are still there"
        time.sleep(0.05)


def is_running(pid: int) -> bool:
    """Whether a process does anything: one that only waits to be reaped by its parent does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
