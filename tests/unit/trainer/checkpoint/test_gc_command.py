"""`internvl checkpoint gc` on a folder: it tells, removes when it is told to, and spares what has changed since."""

import json
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from internvl_trainer.checkpoint import garbage, inventory, verify
from internvl_trainer.checkpoint.cli import checkpoint
from internvl_trainer.checkpoint.prune import stock
from internvl_trainer.checkpoint.sweep import sweep
from internvl_trainer.contract import keys
from internvl_trainer.contract.base import Component
from internvl_trainer.contract.retention import Retention
from internvl_trainer.storage import ObjectStore, StoreUnavailableError, open_store
from tests.unit.trainer.checkpoint.bucket import Bucket, hours

pytestmark = pytest.mark.unit


def run(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(checkpoint, ["gc", *arguments])
    assert result.exit_code == code, result.output
    return result


def found(*arguments: str) -> list[tuple[Any, ...]]:
    """Kind, step, attempt and whether it was removed, of each finding."""
    rows = json.loads(run(*arguments, "-o", "json").stdout)["findings"]
    return [(row["kind"], row["step"], row["attempt"], row["removed"]) for row in rows]


def committed(store: ObjectStore, storage: str) -> list[str]:
    return [info.uri for info in store.list(f"{storage}/") if info.uri.endswith(keys.MANIFEST_NAME)]


def a_bit_of_everything(bucket: Bucket) -> None:
    bucket.pin(bucket.checkpoint(10, age=90))
    bucket.checkpoint(20, age=80)
    bucket.checkpoint(30, age=70)
    bucket.shards(40, age=60)
    bucket.attempt(2, (1, 0), (2, 30), age=50)
    bucket.checkpoint(50, age=40)
    bucket.checkpoint(40, 2, age=30)
    bucket.shards(50, 2, age=1)


def test_nothing_is_removed_before_it_is_asked_for(bucket: Bucket, store: ObjectStore) -> None:
    a_bit_of_everything(bucket)
    bucket.pour(store)
    before = list(store.list(f"{bucket.storage}/"))
    expected = [("superseded", 20, 1), ("orphans", 40, 1), ("late", 50, 1)]
    assert found(bucket.storage, "--keep-last", "2") == [(*each, False) for each in expected]
    result = run(bucket.storage, "--keep-last", "2")
    assert "Nothing was removed; --delete does it." in result.stdout
    assert "uid-1/stage1/step-00000020/a1/" in result.stdout
    assert "not among the last 2" in result.stdout
    assert list(store.list(f"{bucket.storage}/")) == before

    assert found(bucket.storage, "--keep-last", "2", "--delete") == [(*each, True) for each in expected]
    left = {(key.step, key.attempt) for key in map(keys.parse_manifest_key, committed(store, bucket.storage)) if key}
    assert left == {(10, 1), (30, 1), (40, 2)}
    assert f"{bucket.storage}/uid-1/stage1/step-00000050/a2/.metadata" in [
        info.uri for info in store.list(f"{bucket.storage}/")
    ]
    again = run(bucket.storage, "--keep-last", "2", "--delete")
    assert (again.stdout, again.stderr) == ("", f"nothing to remove below {bucket.storage}\n")


def test_a_file_that_its_writer_left_unfinished_is_an_upload(
    bucket: Bucket, store: ObjectStore, tmp_path: Path
) -> None:
    bucket.checkpoint(10, age=30)
    left = bucket.put(f"{bucket.storage}/uid-1/stage1/step-00000010/a1/.unfinished-0123", b"abc", age=25)
    bucket.pour(store)
    assert found(bucket.storage, "--delete") == [("upload", 10, 1, True)]
    assert not Path(left.removeprefix("file://")).exists()


def test_of_one_stage_it_knows_what_others_hold_on_to(bucket: Bucket, store: ObjectStore) -> None:
    uri = bucket.checkpoint(10, age=30)
    bucket.checkpoint(20, age=30)
    bucket.checkpoint(10, stage="stage2", age=30)
    bucket.checkpoint(20, stage="stage2", age=30)
    bucket.offer(uri, at=keys.component_uri(bucket.storage, "uid-1", "stage2", 1, Component.VISION))
    bucket.pour(store)
    assert found(f"{bucket.storage}/uid-1/stage1", "--keep-last", "1") == []
    assert found(f"{bucket.storage}/uid-1/stage2", "--keep-last", "1") == [("superseded", 10, 1, False)]
    assert found(f"{bucket.storage}/uid-1/stage2/step-00000010/", "--keep-last", "1") == [("superseded", 10, 1, False)]
    assert found(bucket.storage.removeprefix("file://"), "--keep-last", "1") == [("superseded", 10, 1, False)]


def test_an_unreadable_record_is_told(bucket: Bucket, store: ObjectStore) -> None:
    bucket.checkpoint(10, age=30)
    bucket.checkpoint(20, age=30)
    bucket.put(bucket.attempt(2, (2, 20)), b"{")
    bucket.pour(store)
    assert "record of an attempt cannot be read" in run(bucket.storage, "--keep-last", "1").stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--keep-every", "10"], "--keep-every goes with --keep-last"),
        (["--older-than", "yesterday"], "give a number with m, h or d"),
        (["--older-than", "5m"], "give 1h or more"),
        (["--keep-last", "0"], "0 is not in the range"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments: list[str], words: str) -> None:
    assert words in run("/nowhere", *arguments, code=2).stderr


def plan(bucket: Bucket, store: ObjectStore) -> list[garbage.Finding]:
    rules = garbage.Rules(Retention(keep_last=1), hours(24), bucket.now)
    return garbage.plan(inventory.take(store, f"{bucket.storage}/", uploads=True), rules)


def test_what_was_pinned_or_published_since_it_was_found_stays(
    bucket: Bucket, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    pinned, published = bucket.checkpoint(10), bucket.checkpoint(20)
    bucket.checkpoint(30)
    bucket.pour(store)
    find = garbage.plan

    def somebody_is_faster(*arguments: Any) -> Any:
        findings = find(*arguments)
        CliRunner().invoke(checkpoint, ["pin", pinned])
        CliRunner().invoke(checkpoint, ["publish", published, "--component", "vision"])
        return findings

    monkeypatch.setattr(garbage, "plan", somebody_is_faster)
    result = run(bucket.storage, "--keep-last", "1", "--delete")
    assert "0 removed" in result.stdout
    assert result.stderr.count("was left alone: it has changed since") == 2
    assert len(committed(store, bucket.storage)) == 3


def test_a_save_that_went_on_since_it_was_found_is_left_alone(bucket: Bucket, store: ObjectStore) -> None:
    folder = bucket.shards(10, age=30)
    bucket.checkpoint(20, age=30)
    bucket.pour(store)
    (orphans,) = plan(bucket, store)
    store.put(f"{folder}one-more.distcp", b"x")
    assert sweep(store, orphans) is False
    store.delete(f"{folder}one-more.distcp")
    store.put(orphans.folder.manifest_uri, b"{}")

    class Behind(ObjectStore):
        """Does not list what was written a moment ago."""

        def list(self, prefix_uri: str) -> Any:
            return (info for info in super().list(prefix_uri) if not info.uri.endswith(keys.MANIFEST_NAME))

    behind = open_store()
    behind.__class__ = Behind
    assert sweep(behind, orphans) is False


def test_what_vanished_meanwhile_is_no_error(bucket: Bucket, store: ObjectStore) -> None:
    a_bit_of_everything(bucket)
    bucket.pour(store)
    findings = plan(bucket, store)
    for finding in findings:
        store.delete_all([info.uri for info in finding.objects])
    assert [sweep(store, finding) for finding in findings] == [True] * len(findings)


@pytest.mark.parametrize("survives", range(6))
def test_a_store_that_fails_in_the_middle_leaves_no_checkpoint_damaged(
    bucket: Bucket, store: ObjectStore, survives: int
) -> None:
    a_bit_of_everything(bucket)
    bucket.pour(store)

    class Failing(ObjectStore):
        """Goes away after so many objects have been removed."""

        left = survives

        def delete(self, uri: str) -> None:
            if self.left == 0:
                raise StoreUnavailableError("the store did not answer")
            self.left -= 1
            super().delete(uri)

        def delete_all(self, uris: Iterable[str]) -> None:
            for uri in uris:
                self.delete(uri)

    failing = open_store()
    failing.__class__ = Failing
    with pytest.raises(StoreUnavailableError):
        list(map(partial(sweep, failing), plan(bucket, store)))
    for uri in committed(store, bucket.storage):
        assert verify.judge(store, uri, verify.expected_by_key(uri))[0].problems == ()
    result = run(bucket.storage, "--keep-last", "1", "--delete")
    assert "removed" in result.stdout


def test_a_listing_that_does_not_show_a_record_makes_no_late_checkpoint_count(
    bucket: Bucket, store: ObjectStore
) -> None:
    bucket.checkpoint(10)
    bucket.attempt(2, (1, 0), (2, 10))
    bucket.checkpoint(40)
    bucket.checkpoint(20, 2)
    bucket.pour(store)

    class Behind(ObjectStore):
        """Lists no record."""

        def list(self, prefix_uri: str) -> Any:
            return (info for info in super().list(prefix_uri) if "/attempts/" not in info.uri)

    store.__class__ = Behind
    kept = stock(store, keys.stage_prefix(bucket.storage, "uid-1", "stage1"), max_attempt=2)
    assert [(each.candidate.key.step, each.candidate.key.attempt) for each in kept] == [(10, 1), (20, 2)]


def test_training_prunes_by_the_same_rules(bucket: Bucket, store: ObjectStore) -> None:
    """A late checkpoint of attempt 1 is the highest step of the stage, and counts as little as a damaged one."""
    bucket.checkpoint(10)
    bucket.attempt(2, (1, 0), (2, 10))
    bucket.checkpoint(40)
    bucket.checkpoint(20, 2)
    damaged = bucket.checkpoint(30, 2)
    del bucket.objects[damaged.replace(keys.MANIFEST_NAME, "vision__0_0.distcp")]
    bucket.checkpoint(50, 3)
    bucket.pour(store)
    kept = stock(store, keys.stage_prefix(bucket.storage, "uid-1", "stage1"), max_attempt=2)
    assert [(each.candidate.key.step, each.candidate.key.attempt) for each in kept] == [(10, 1), (20, 2)]
    store.put(keys.attempt_uri(bucket.storage, "uid-1", "stage1", 2), b"{")
    assert stock(store, keys.stage_prefix(bucket.storage, "uid-1", "stage1"), max_attempt=2) == []


def test_ages_are_told_as_they_are_given() -> None:
    given = {1: "1h", 1.5: "90m", 24: "24h", 48: "2d", 168: "7d", 36: "36h"}
    assert {each: garbage.in_words(hours(each)) for each in given} == given
