"""`internvl data filter` from a bucket into a bucket, and with several processes."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from hack.cluster.object_store import ObjectStore as S3Server
from internvl_trainer.contract.exit_codes import ExitCode
from internvl_trainer.curation.cli import data
from internvl_trainer.curation.filter.lines import RANGE
from internvl_trainer.storage import ObjectStore, open_store

pytestmark = pytest.mark.integration

LOOP = "the cat sat " * 40


def sample(answer: str, number: int) -> str:
    turns = [{"from": "human", "value": "?"}, {"from": "gpt", "value": answer}]
    return json.dumps({"id": number, "conversations": turns}) + "\n"


def upload(store: ObjectStore, folder: Path, name: str, text: str, uri: str) -> None:
    (folder / name).write_text(text)
    store.upload(folder / name, f"{uri}/{name}")


def test_from_a_bucket_into_a_bucket(s3_server: S3Server, tmp_path: Path) -> None:
    uri, output = "s3://checkpoints/filter/in", "s3://checkpoints/filter/out"
    store = open_store(endpoint_url=s3_server.endpoint)
    upload(store, tmp_path, "a.jsonl", sample("Yes.", 1) + sample(LOOP, 2), uri)
    upload(store, tmp_path, "meta.json", json.dumps({"a": {"root": "img", "annotation": "a.jsonl"}}), uri)

    def run(*more: str) -> Result:
        arguments = ["filter", f"{uri}/meta.json", output, "--endpoint-url", s3_server.endpoint, "--workers", "1"]
        return CliRunner().invoke(data, [*arguments, *more])

    result = run()
    assert result.exit_code == 0, result.stderr
    names = ["a.jsonl", "meta.json", "removed.jsonl", "report.json", "report.md", "review.jsonl"]
    assert [info.uri for info in store.list(f"{output}/")] == [f"{output}/{name}" for name in names]
    assert store.read(f"{output}/a.jsonl").decode() == sample("Yes.", 1)
    assert json.loads(store.read(f"{output}/meta.json")) == {"a": {"root": f"{uri}/img", "annotation": "a.jsonl"}}

    again = run()
    assert again.exit_code == ExitCode.INVALID_CONFIG
    assert "exists already" in again.stderr

    upload(store, tmp_path, "meta.json", json.dumps({"b": {"root": "img", "annotation": "a.jsonl"}}), uri)
    assert run("--force").exit_code == 0
    assert [info.uri.rpartition("/")[2] for info in store.list(f"{output}/")] == sorted(["b.jsonl", *names[1:]])


def test_a_bucket_without_the_annotation(s3_server: S3Server, tmp_path: Path) -> None:
    store = open_store(endpoint_url=s3_server.endpoint)
    uri = "s3://checkpoints/filter/missing"
    upload(store, tmp_path, "meta.json", json.dumps({"a": {"annotation": "a.jsonl"}}), uri)
    arguments = ["filter", f"{uri}/meta.json", str(tmp_path / "out"), "--endpoint-url", s3_server.endpoint]
    result = CliRunner().invoke(data, arguments)
    assert result.exit_code == ExitCode.INVALID_CONFIG
    assert f"annotation {uri}/a.jsonl does not exist" in result.stderr


@pytest.mark.timeout(120)
def test_several_processes_find_what_one_finds(tmp_path: Path) -> None:
    answer = " ".join(str(n) for n in range(200))
    count = 6 * RANGE // 5 // len(sample(answer, 1))
    with (tmp_path / "a.jsonl").open("w") as sink:
        for number in range(count):
            sink.write(sample(LOOP if number % 100 == 7 else answer, number))
    (tmp_path / "meta.json").write_text(json.dumps({"a": {"annotation": "a.jsonl"}}))
    for workers in ("1", "2"):
        arguments = ["filter", str(tmp_path / "meta.json"), str(tmp_path / workers), "--workers", workers]
        assert CliRunner().invoke(data, arguments).exit_code == 0
    for name in ("a.jsonl", "review.jsonl", "report.json"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()
    assert len((tmp_path / "1" / "review.jsonl").read_text().splitlines()) == (count + 92) // 100
