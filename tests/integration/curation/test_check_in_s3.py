"""A check of data in a bucket, through a real S3 server."""

import json
from pathlib import Path

import pytest

from hack.cluster.object_store import ObjectStore as S3Server
from internvl_trainer.contract.exit_codes import ExitCode
from internvl_trainer.storage import ObjectStore, open_store
from tests.integration.curation.commands import EXAMPLES, run

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

BUCKET = "s3://checkpoints/check"
META = {
    "shapes": {"root": "pictures", "annotation": "shapes.jsonl", "max_dynamic_patch": 2},
    "clips": {"root": "clips", "annotation": "clips.jsonl", "repeat_time": 0.5},
}


@pytest.fixture
def store(s3_server: S3Server) -> ObjectStore:
    return open_store(endpoint_url=s3_server.endpoint)


@pytest.fixture
def uploaded(store: ObjectStore, tmp_path: Path) -> str:
    """The example's data in a bucket, but for one picture."""
    data = EXAMPLES / "data"
    for path in data.rglob("*"):
        if path.is_file() and path.name != "red-ring.png":
            store.upload(path, f"{BUCKET}/{path.relative_to(data)}")
    (tmp_path / "meta.json").write_text(json.dumps(META))
    store.upload(tmp_path / "meta.json", f"{BUCKET}/mixed.json")
    return f"{BUCKET}/mixed.json"


def test_everything_is_read_from_the_bucket(s3_server: S3Server, uploaded: str, tmp_path: Path) -> None:
    ended = run(
        "check", uploaded, "--tokenizer", f"{BUCKET}/tokenizer", "--model", "tiny-8b-like", "--workers", 1,
        "--endpoint-url", s3_server.endpoint, "--bad", tmp_path / "bad.jsonl", "--output", "json",
        cache=tmp_path / "cache",
    )  # fmt: skip
    assert ended.code == ExitCode.INVALID_CONFIG, ended.errors
    shapes, clips = ended.document["sources"]
    assert (shapes["samples"], shapes["bad"]) == (36, {"image unreadable": 1})
    assert (clips["samples"], clips["kinds"]["video"]) == (5, 5)
    (bad,) = map(json.loads, (tmp_path / "bad.jsonl").read_text().splitlines())
    assert (bad["file"], bad["id"]) == (f"{BUCKET}/shapes.jsonl", "red-ring")
    assert bad["detail"] == f"image {BUCKET}/pictures/red-ring.png does not exist"


def test_a_store_that_does_not_answer_is_no_fault_of_the_data(tmp_path: Path) -> None:
    ended = run(
        "check", "s3://checkpoints/none.json", "--tokenizer", str(EXAMPLES / "data/tokenizer"),
        "--endpoint-url", "http://127.0.0.1:9", cache=tmp_path,
    )  # fmt: skip
    assert ended.code == ExitCode.STORE_UNAVAILABLE, ended.errors
