"""Indexes with a real S3 server and real processes: annotations far away, several builders, and whoever is killed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from hack.cluster.object_store import ObjectStore as S3Server
from internvl_trainer.contract.catalog import MODELS, ModelGeometry
from internvl_trainer.contract.exit_codes import ExitCode
from internvl_trainer.contract.job import DataConfig, MixtureSource
from internvl_trainer.data.index import MeasuringProcessDiedError, Progress, SourceIndex, find_or_build
from internvl_trainer.data.index import lines as lines_module
from internvl_trainer.data.index.processes import PART
from internvl_trainer.data.sources import from_mixture
from internvl_trainer.data.tokenizer import Tokenizer
from internvl_trainer.storage import ObjectChangedError, ObjectStore, open_store
from tests.unit.trainer.data.world import GOLDEN, image_record, text_record

pytestmark = pytest.mark.integration

TOKENIZER = str(GOLDEN / "qwen2_5_subset")
PARTS = 4


@pytest.fixture
def store(s3_server: S3Server) -> ObjectStore:
    return open_store(endpoint_url=s3_server.endpoint)


@pytest.fixture
def prefix(tmp_path: Path) -> str:
    return f"s3://checkpoints/{tmp_path.name}"


@pytest.fixture(scope="module")
def payload() -> bytes:
    """An annotation file of several parts, with good and bad samples."""
    padding = {"a field that nobody reads": "x" * 4000}
    records = []
    for number in range(PARTS * PART // 4200):
        record = text_record(number) if number % 2 else image_record(number, "a.png", 300, 200 + number % 400)
        records.append(b"{no record\n" if number % 500 == 7 else json.dumps(record | padding).encode() + b"\n")
    return b"".join(records)


@pytest.fixture
def annotation(payload: bytes, tmp_path: Path) -> Path:
    path = tmp_path / "set.jsonl"
    path.write_bytes(payload)
    return path


class Opening:
    """Finds or builds the index of one annotation file."""

    def __init__(self, store: ObjectStore, folder: Path) -> None:
        self._store, self._folder = store, folder
        tiny = MODELS["tiny-1b-like"]
        language = tiny.language.model_copy(update={"vocab_size": 151674})
        self._model: ModelGeometry = tiny.model_copy(update={"language": language})
        self._tokenizer = Tokenizer.load(TOKENIZER, store, family="qwen2.5")

    def __call__(
        self,
        uri: str,
        *,
        cache: str = "cache",
        processes: int = 2,
        watch: Callable[[Progress], None] = lambda _: None,
        **config: Any,
    ) -> SourceIndex:
        mixture = (MixtureSource(name="set", annotation=uri),)
        data = DataConfig(mixture=mixture, tokenizer=TOKENIZER, **config)
        (index,) = find_or_build(
            from_mixture(mixture), data, self._model, self._tokenizer, self._store, self._folder / cache,
            processes=processes, watch=watch,
        )  # fmt: skip
        return index


@pytest.fixture
def opening(store: ObjectStore, tmp_path: Path) -> Opening:
    return Opening(store, tmp_path)


def test_several_processes_build_the_same_rows_as_one(opening: Opening, annotation: Path) -> None:
    seen: list[Progress] = []
    alone = opening(str(annotation), cache="of one", processes=1)
    shared = opening(str(annotation), cache="of two", processes=2, watch=seen.append)
    assert np.array_equal(alone.rows, shared.rows)
    assert alone.header == shared.header
    assert shared.header.bad > 1
    assert [progress.bytes_done for progress in seen] == [
        *range(PART, annotation.stat().st_size, PART),
        annotation.stat().st_size,
    ]
    assert (seen[-1].samples, seen[-1].bad) == (len(shared), shared.header.bad)


@pytest.mark.parametrize("copied", [True, False], ids=["copied", "read by ranges"])
def test_an_annotation_in_a_bucket(
    opening: Opening, store: ObjectStore, prefix: str, annotation: Path, tmp_path: Path, copied: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(lines_module, "COPY_LIMIT", 2**30 if copied else 2**20)
    store.upload(annotation, f"{prefix}/set.jsonl")

    far = opening(f"{prefix}/set.jsonl", index=f"{prefix}/index")

    near = opening(str(annotation))
    assert np.array_equal(far.rows, near.rows)
    assert far.record(1001).turns == near.record(1001).turns
    assert len(list((tmp_path / "cache").glob("annotations/*.jsonl"))) == int(copied)
    again = opening(f"{prefix}/set.jsonl", index=f"{prefix}/index", cache="of another node")
    assert not again.built
    assert np.array_equal(again.rows, near.rows)


def test_an_annotation_that_is_replaced_in_its_bucket(
    opening: Opening, store: ObjectStore, prefix: str, annotation: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines_module, "COPY_LIMIT", 2**20)
    store.upload(annotation, f"{prefix}/set.jsonl")
    before = opening(f"{prefix}/set.jsonl")
    annotation.write_bytes(annotation.read_bytes().replace(b'"q1"', b'"q2"'))
    store.upload(annotation, f"{prefix}/set.jsonl")

    with pytest.raises(ObjectChangedError, match=r"set\.jsonl was replaced while it was in use"):
        before.record(1)
    after = opening(f"{prefix}/set.jsonl")

    assert after.built
    assert after.header.digest != before.header.digest
    assert after.record(1).turns[0].text == "q2"


def test_a_process_that_is_killed_ends_the_build_with_its_reason(
    opening: Opening, annotation: Path, tmp_path: Path
) -> None:
    def kill_one(progress: Progress) -> None:
        if progress.bytes_done == PART:
            os.kill(_pool_of(psutil.Process())[0].pid, signal.SIGKILL)

    with pytest.raises(MeasuringProcessDiedError, match=r"measured the samples of .*set\.jsonl was killed") as caught:
        opening(str(annotation), index=str(tmp_path / "kept"), watch=kill_one)

    assert caught.value.exit_code is ExitCode.PEER_LOST
    assert not (tmp_path / "kept").exists()
    assert opening(str(annotation), index=str(tmp_path / "kept")).built


def _pool_of(process: psutil.Process) -> list[psutil.Process]:
    return [child for child in process.children() if "spawn_main" in " ".join(child.cmdline())]


class Command:
    """`internvl data index` as a process of its own."""

    def __init__(self, annotation: str, s3_server: S3Server, *options: str) -> None:
        self._arguments = [
            *("--tokenizer", TOKENIZER, "--endpoint-url", s3_server.endpoint, "--output", "json"),
            *("--processes", "2", *options),
        ]
        self._meta = Path(annotation).with_name("meta.json")
        self._meta.write_text(json.dumps({"set": {"annotation": annotation}}))

    def start(self, cache: Path) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "internvl_trainer.curation", "index", str(self._meta), *self._arguments]
        return subprocess.Popen([*command, "--cache", str(cache)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def run(self, cache: Path) -> Any:
        return _answer(self.start(cache))


def _answer(process: subprocess.Popen[bytes]) -> Any:
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors.decode()
    (facts,) = json.loads(output)
    return facts


def test_a_second_process_finds_what_the_first_has_kept(
    annotation: Path, s3_server: S3Server, store: ObjectStore, prefix: str, tmp_path: Path
) -> None:
    command = Command(str(annotation), s3_server, "--set", f"index={prefix}/index")
    first = command.run(tmp_path / "node 1")
    second = command.run(tmp_path / "node 2")
    assert (first.pop("built"), second.pop("built")) == (True, False)
    assert first.pop("bad_samples") != second.pop("bad_samples")
    assert first == second
    assert sorted(info.uri.rpartition(first["digest"])[2][-5:] for info in store.list(f"{prefix}/index/")) == [
        ".json",
        ".rows",
        "jsonl",
    ]


def test_builders_that_race_all_end_with_one_index(
    annotation: Path, s3_server: S3Server, store: ObjectStore, prefix: str, tmp_path: Path
) -> None:
    command = Command(str(annotation), s3_server, "--set", f"index={prefix}/index")
    nodes = [tmp_path / "node 1", tmp_path / "node 1", tmp_path / "node 2"]
    facts = [_answer(process) for process in [command.start(node) for node in nodes]]
    assert len({each["digest"] for each in facts}) == 1
    assert sum(each["built"] for each in facts[:2]) <= 1, "processes of a node share the work"
    assert len([info for info in store.list(f"{prefix}/index/") if info.uri.endswith(".json")]) == 1


def test_a_builder_that_is_killed_leaves_nothing_half_done(
    annotation: Path, s3_server: S3Server, store: ObjectStore, prefix: str, tmp_path: Path
) -> None:
    command = Command(str(annotation), s3_server, "--set", f"index={prefix}/index")
    process = command.start(tmp_path / "node")
    _until(lambda: any((tmp_path / "node").rglob("rows.unfinished")) and _pool_of(psutil.Process(process.pid)))
    pool = _pool_of(psutil.Process(process.pid))
    process.kill()
    process.communicate()

    _until(lambda: not any(each.is_running() for each in pool))
    assert list(store.list(f"{prefix}/index/")) == []
    assert command.run(tmp_path / "node")["built"]
    assert not list((tmp_path / "node").rglob("*.unfinished"))


def _until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline, "it did not happen within a minute"
        time.sleep(0.01)
