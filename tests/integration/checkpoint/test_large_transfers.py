"""Transfers of a size that processes move: every byte arrives, each is read once, and a death is told."""

import os
import signal
import threading
from collections import Counter
from pathlib import Path

import psutil
import pytest

from hack.cluster.object_store import ObjectStore as S3Server
from internvl_trainer.checkpoint import transfer
from internvl_trainer.checkpoint.errors import InvalidCheckpointError, TransferProcessDiedError
from internvl_trainer.checkpoint.ranges import Range
from internvl_trainer.checkpoint.transfer import LARGE_UPLOAD, Transfers, Wanted
from internvl_trainer.contract.object_digest import BLOCK_BYTES
from internvl_trainer.storage import Traits, open_store
from tests.integration.faults.plan import Fault, FaultPlan, Operation
from tests.integration.faults.proxy import FaultProxy

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]


@pytest.fixture(autouse=True, params=["in processes", "in threads"])
def _downloads(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "LARGE_DOWNLOAD", 1 if request.param == "in processes" else 2**60)


@pytest.fixture
def prefix(tmp_path: Path) -> str:
    return f"s3://checkpoints/{tmp_path.name}/"


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("shards")
    sizes = {"vision__0_0.distcp": 2 * BLOCK_BYTES + 12345, "language__0_0.distcp": BLOCK_BYTES, "empty": 0}
    assert sum(sizes.values()) > LARGE_UPLOAD
    for name, size in sizes.items():
        (folder / name).write_bytes(os.urandom(size))
    return {name: folder / name for name in sizes}


def test_processes_move_every_byte_and_each_is_read_once(
    s3_server: S3Server, prefix: str, shards: dict[str, Path], tmp_path: Path
) -> None:
    told: list[int] = []
    with (
        FaultProxy(s3_server.endpoint, FaultPlan(1, {})) as proxy,
        Transfers(open_store(endpoint_url=proxy.endpoint)) as transfers,
    ):
        objects = transfers.upload(shards, prefix, told.append)
        assert psutil.Process().children(), "processes have been started"
        transfers.download(f"{prefix}MANIFEST.json", [Wanted.whole(each) for each in objects], tmp_path, told.append)
        reads = Counter((record.key, record.range) for record in proxy.log if record.operation is Operation.GET_OBJECT)
    assert sum(told) == 2 * sum(path.stat().st_size for path in shards.values())
    assert all((tmp_path / name).read_bytes() == path.read_bytes() for name, path in shards.items())
    assert set(reads.values()) == {1}
    assert len(reads) == 3 + 1 + 1, "three blocks, one, and a look at the empty one"


def test_only_the_blocks_that_hold_a_range_are_read_and_the_rest_is_a_hole(
    s3_server: S3Server, prefix: str, shards: dict[str, Path], tmp_path: Path
) -> None:
    with Transfers(open_store(endpoint_url=s3_server.endpoint)) as transfers:
        objects = {stored.key: stored for stored in transfers.upload(shards, prefix)}
        wanted = Wanted.part(objects["vision__0_0.distcp"], [Range(BLOCK_BYTES + 10, 100)])
        transfers.download(f"{prefix}MANIFEST.json", [wanted], tmp_path)
    found = (tmp_path / "vision__0_0.distcp").read_bytes()
    expected = shards["vision__0_0.distcp"].read_bytes()
    assert wanted.size == BLOCK_BYTES
    assert len(found) == len(expected)
    assert found[BLOCK_BYTES : 2 * BLOCK_BYTES] == expected[BLOCK_BYTES : 2 * BLOCK_BYTES]
    assert not any(found[:BLOCK_BYTES])


def test_a_damaged_block_is_named_by_its_object(
    s3_server: S3Server, prefix: str, shards: dict[str, Path], tmp_path: Path
) -> None:
    with Transfers(open_store(endpoint_url=s3_server.endpoint)) as transfers:
        objects = {stored.key: stored for stored in transfers.upload(shards, prefix)}
        stored = objects["vision__0_0.distcp"]
        lying = stored.model_copy(update={"blocks": (stored.blocks[0], "0" * 64, stored.blocks[2])})
        assert transfers.check(f"{prefix}MANIFEST.json", [Wanted.part(lying, [Range(0, 10)])]) == []
        with pytest.raises(InvalidCheckpointError, match=r"DigestMismatch: object vision__0_0\.distcp"):
            transfers.download(f"{prefix}MANIFEST.json", [Wanted.whole(lying)], tmp_path)


def test_a_process_that_is_killed_is_told_with_a_remedy(
    s3_server: S3Server, prefix: str, shards: dict[str, Path]
) -> None:
    with Transfers(open_store(endpoint_url=s3_server.endpoint)) as transfers:
        before = set(psutil.Process().children())

        def kill_one() -> None:
            while not (fresh := set(psutil.Process().children()) - before):
                pass
            os.kill(fresh.pop().pid, signal.SIGKILL)

        killer = threading.Thread(target=kill_one)
        killer.start()
        with pytest.raises(TransferProcessDiedError, match=r"was killed.*resources\.memory"):
            transfers.upload(shards, prefix)
        killer.join()


RATES = {
    Fault.DROP_REQUEST: 0.1,
    Fault.DROP_ANSWER: 0.1,
    Fault.UNAVAILABLE: 0.1,
    Fault.DUPLICATE: 0.1,
    Fault.TRUNCATED_PART: 0.15,
    Fault.TRUNCATED_STORED: 0.15,
    Fault.CORRUPT_READ: 0.2,
    Fault.TRUNCATED_READ: 0.1,
}


@pytest.mark.parametrize("seed", [1, 2])
def test_parts_that_meet_bad_weather_arrive_whole_or_not_at_all(
    s3_server: S3Server, prefix: str, shards: dict[str, Path], tmp_path: Path, seed: int
) -> None:
    plan = FaultPlan(seed, RATES, limit=1)
    keys = {"access_key": s3_server.access_key, "secret_key": s3_server.secret_key}
    with FaultProxy(s3_server.endpoint, plan, **keys) as proxy:
        store = open_store(endpoint_url=proxy.endpoint).with_traits(Traits(checksum="CRC64NVME"))
        with Transfers(store, patience=60) as transfers:
            objects = transfers.upload(shards, prefix)
            transfers.download(f"{prefix}MANIFEST.json", [Wanted.whole(each) for each in objects], tmp_path)
        assert proxy.faults, "something has gone wrong"
    assert all((tmp_path / name).read_bytes() == path.read_bytes() for name, path in shards.items())
    fair = open_store(endpoint_url=s3_server.endpoint)
    with Transfers(fair) as transfers:
        assert transfers.check(f"{prefix}MANIFEST.json", [Wanted.whole(each) for each in objects]) == []
