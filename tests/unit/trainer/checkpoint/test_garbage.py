"""What gc finds, and what it never touches."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from internvl_trainer.checkpoint.garbage import Finding, ForgottenUpload, LateCheckpoint, Orphans, SupersededCheckpoint
from internvl_trainer.checkpoint.inventory import CheckpointFolder
from internvl_trainer.contract import keys
from internvl_trainer.contract.base import Component
from internvl_trainer.contract.manifest import ManifestRef
from tests.unit.trainer.checkpoint.bucket import SHARDS, STORAGE, Bucket

pytestmark = pytest.mark.unit


@pytest.fixture
def bucket() -> Bucket:
    return Bucket()


def told(findings: list[Finding]) -> list[tuple[str, int, int]]:
    """Kind, step and attempt of each."""
    return [(finding.kind, finding.folder.key.step, finding.folder.key.attempt) for finding in findings]


def test_without_a_policy_every_checkpoint_stays(bucket: Bucket) -> None:
    for step in (10, 20, 30):
        bucket.checkpoint(step, age=1000)
    assert bucket.plan() == []


def test_the_policy_keeps_the_last_and_every_nth_of_each_stage(bucket: Bucket) -> None:
    for step in (10, 20, 30, 40, 50):
        bucket.checkpoint(step)
    bucket.checkpoint(10, stage="stage2")
    found = bucket.plan(keep_last=2, keep_every=20)
    assert told(found) == [("superseded", 10, 1), ("superseded", 30, 1)]
    assert found[0].reason == "not among the last 2, nor at a multiple of 20 steps"
    assert found[0].objects[0].uri.endswith("/step-00000010/a1/MANIFEST.json"), "the manifest goes first"
    assert {info.uri.rpartition("/")[2] for info in found[0].objects} == {keys.MANIFEST_NAME, *SHARDS}


def test_what_is_pinned_published_final_or_started_from_stays(bucket: Bucket) -> None:
    bucket.pin(bucket.checkpoint(10))
    bucket.offer(bucket.checkpoint(20))
    bucket.offer(bucket.checkpoint(30), at=keys.component_uri(STORAGE, "uid-1", "stage1", 1, Component.VISION))
    began = ManifestRef(uri=bucket.checkpoint(40), sha256="a" * 64)
    bucket.checkpoint(10, run="uid-2", parents={Component.VISION: began})
    bucket.checkpoint(50, total_steps=50)
    bucket.checkpoint(60)
    bucket.checkpoint(70)
    assert told(bucket.plan(keep_last=1)) == [("superseded", 60, 1)]


def test_an_offer_holds_its_checkpoint_however_the_place_is_spelled(bucket: Bucket) -> None:
    uri = bucket.checkpoint(10)
    bucket.offer(
        uri, at=f"{STORAGE}/uid-1/stage1/published/a1/vision.json", source=uri.replace("s3://", "file:///mnt/")
    )
    bucket.checkpoint(20)
    assert bucket.plan(keep_last=1) == []


def test_a_late_checkpoint_takes_no_place_among_the_last(bucket: Bucket) -> None:
    """Attempt 2 went on from step 10, while attempt 1, cut off on its node, committed step 40."""
    bucket.checkpoint(10, age=5)
    bucket.attempt(2, (1, 0), (2, 10), age=4)
    bucket.checkpoint(40, age=3)
    bucket.checkpoint(20, 2, age=2)
    bucket.checkpoint(30, 2, age=1)
    assert told(bucket.plan(keep_last=1)) == [("superseded", 10, 1), ("superseded", 20, 2)]


def test_a_late_checkpoint_goes_when_it_is_old_and_nobody_holds_it(bucket: Bucket) -> None:
    bucket.attempt(2, (1, 0), (2, 10), age=200)
    bucket.checkpoint(10, age=300)
    late = bucket.checkpoint(40, age=100)
    bucket.pin(bucket.checkpoint(50, age=100))
    bucket.checkpoint(60, age=1)
    assert told(bucket.plan()) == [("late", 40, 1)]
    bucket.pin(late)
    assert bucket.plan() == []


def test_where_only_late_checkpoints_are_left_the_newest_of_them_stays(bucket: Bucket) -> None:
    """Attempt 2 began anew, since a listing was behind, and has committed nothing yet."""
    bucket.checkpoint(10, age=300)
    bucket.checkpoint(20, age=300)
    bucket.attempt(2, (1, 0), (2, 0), age=200)
    assert told(bucket.plan()) == [("late", 10, 1)]


def test_where_a_record_cannot_be_read_no_checkpoint_is_touched(bucket: Bucket) -> None:
    """Nobody knows where attempt 2 began: step 40 may be its stage's newest, or late."""
    for step in (10, 20, 40):
        bucket.checkpoint(step, age=100)
    record = bucket.attempt(2, (1, 0), (2, 10), age=90)
    bucket.put(record, b"{", age=90)
    assert bucket.plan(keep_last=1) == []
    bucket.attempt(3, (1, 0), (2, 10), (3, 10), age=80)
    assert told(bucket.plan(keep_last=1)) == [("late", 20, 1), ("late", 40, 1)], "a later record has the fence, too"


def test_a_damaged_checkpoint_takes_no_place_among_the_last_and_is_left_to_people(bucket: Bucket) -> None:
    bucket.checkpoint(10)
    bucket.checkpoint(20)
    damaged = bucket.checkpoint(30)
    del bucket.objects[damaged.replace(keys.MANIFEST_NAME, "vision__0_0.distcp")]
    bucket.put(bucket.checkpoint(40), b"no manifest")
    assert told(bucket.plan(keep_last=1)) == [("superseded", 10, 1)]


def test_objects_without_a_manifest_go_when_their_attempt_was_replaced_or_they_are_old(bucket: Bucket) -> None:
    bucket.checkpoint(10, age=9)
    bucket.shards(20, age=8)
    assert bucket.plan() == [], "the save may be under way"
    bucket.attempt(2, (1, 0), (2, 10), age=7)
    bucket.shards(20, 2, age=6)
    (found,) = bucket.plan()
    assert told([found]) == [("orphans", 20, 1)]
    assert found.reason == "no manifest: attempt 1 was replaced by attempt 2 since"
    assert told(bucket.plan(older_than=5)) == [("orphans", 20, 1), ("orphans", 20, 2)]


def test_a_checkpoint_of_a_later_attempt_replaces_too(bucket: Bucket) -> None:
    bucket.shards(20, 1, age=8)
    bucket.checkpoint(20, 2, age=7)
    assert told(bucket.plan()) == [("orphans", 20, 1)]


def test_what_a_replaced_attempt_writes_since_is_given_its_time(bucket: Bucket) -> None:
    """It may be a copy that somebody makes of an older attempt's checkpoint, beside the newer one's."""
    bucket.checkpoint(20, 2, age=7)
    bucket.shards(20, 1, age=6)
    assert bucket.plan() == []


def test_one_young_object_or_upload_keeps_the_whole_folder(bucket: Bucket) -> None:
    folder = bucket.shards(20, age=100)
    bucket.put(f"{folder}late.distcp", b"x", age=1)
    assert bucket.plan() == []
    del bucket.objects[f"{folder}late.distcp"]
    upload = bucket.upload(folder, age=1)
    assert bucket.plan() == []
    bucket.uploads.remove(upload)
    assert told(bucket.plan()) == [("orphans", 20, 1)]


def test_a_folder_that_somebody_pinned_or_published_from_stays_though_its_manifest_is_gone(bucket: Bucket) -> None:
    for step, hold in ((10, bucket.pin), (20, bucket.offer)):
        uri = bucket.checkpoint(step, age=100)
        held_by = hold(uri)
        bucket.put(held_by, bucket.objects[held_by][0], age=100)
        del bucket.objects[uri]
    bucket.shards(30, age=100)
    assert told(bucket.plan()) == [("orphans", 30, 1)]


def test_unfinished_uploads_go_when_their_attempt_was_replaced_or_they_are_old(bucket: Bucket) -> None:
    committed = bucket.checkpoint(10, age=50).removesuffix(keys.MANIFEST_NAME)
    old = bucket.upload(committed, age=40)
    bucket.upload(committed, age=5)
    replaced = bucket.upload(bucket.shards(20, age=3), age=3)
    bucket.attempt(2, (1, 0), (2, 10), age=2)
    bucket.upload(f"{STORAGE}/uid-1/stage1/step-00000020/a2/", age=1)
    found = [finding.upload for finding in bucket.plan() if isinstance(finding, ForgottenUpload)]
    assert found == [old, bucket.uploads[1], replaced]
    assert told(bucket.plan()) == [("upload", 10, 1), ("upload", 10, 1), ("orphans", 20, 1), ("upload", 20, 1)]


@pytest.mark.parametrize(
    "uri",
    [
        "data-index/abc.rows",
        "uid-1/stage1/step-00000010/notes.txt",
        "uid-1/stage1/step-10/a1/vision__0_0.distcp",
        "uid-1/stage1/step-000000010/a1/vision__0_0.distcp",
        "uid-1/stage1/step-00000010/a0/vision__0_0.distcp",
        "uid-1/stage1/step-00000010/attempt1/vision__0_0.distcp",
        "uid-1/stage1/attempts/a1-newest.json",
        "uid-1/.probe",
        "weights/vit/vision__0_0.distcp",
        "metrics.jsonl",
    ],
)
def test_what_is_not_of_our_layout_is_never_touched(bucket: Bucket, uri: str) -> None:
    bucket.checkpoint(50, 7)
    bucket.put(f"{STORAGE}/{uri}", b"x", age=10_000)
    bucket.uploads.append(bucket.upload(STORAGE, age=10_000)._replace(uri=f"{STORAGE}/{uri}.part"))
    found = bucket.plan(keep_last=1)
    assert [finding for finding in found if not finding.uri.endswith(".part")] == []
    assert all("/a1/" in finding.uri and "step-00000010/a1/" in finding.uri for finding in found)


ages = st.sampled_from([0.0, 1.0, 5.0, 23.0, 25.0, 100.0])
steps = st.sampled_from([10, 20, 30, 40])


@st.composite
def buckets(draw: st.DrawFn) -> Bucket:
    """Whatever attempts, saves, people and crashes may have left of two stages."""
    bucket = Bucket()
    for stage in draw(st.sampled_from([["stage1"], ["stage1", "stage2"]])):
        began = [draw(st.integers(0, 30)) for _ in range(draw(st.integers(0, 3)))]
        fences = [(number, step) for number, step in enumerate(began, 1)]
        for number, _ in fences:
            if draw(st.booleans()):
                record = bucket.attempt(number, *fences[:number], age=draw(ages), stage=stage)
                if draw(st.integers(0, 9)) == 0:
                    bucket.put(record, b"damaged", age=1)
        for step, attempt in draw(st.sets(st.tuples(steps, st.integers(1, 3)), max_size=6)):
            _folder(draw, bucket, stage, step, attempt)
    return bucket


def _folder(draw: st.DrawFn, bucket: Bucket, stage: str, step: int, attempt: int) -> None:
    kind = draw(st.sampled_from(["committed", "committed", "committed", "uploaded", "damaged", "unreadable"]))
    age = draw(ages)
    if kind == "uploaded":
        folder = bucket.shards(step, attempt, age=age, stage=stage)
    else:
        total = draw(st.sampled_from([100, 100, 100, step]))
        uri = bucket.checkpoint(step, attempt, age=age, stage=stage, total_steps=total)
        folder = keys.folder_of(uri)
        mark = draw(st.sampled_from(["", "", "", "pin", "offer", "publish"]))
        if mark == "pin":
            bucket.pin(uri)
        elif mark:
            at = keys.component_uri(STORAGE, "uid-1", stage, attempt, Component.VISION) if mark == "publish" else None
            bucket.offer(uri, at=at)
        if kind == "damaged":
            del bucket.objects[f"{folder}vision__0_0.distcp"]
        if kind == "unreadable":
            bucket.put(uri, b"{", age)
    if draw(st.integers(0, 4)) == 0:
        bucket.upload(folder, age=draw(ages))


policies = st.fixed_dictionaries(
    {"keep_last": st.sampled_from([None, 1, 2]), "older_than": st.sampled_from([2.0, 24.0, 48.0])}
)


def _sound(bucket: Bucket) -> dict[str, CheckpointFolder]:
    found = bucket.inventory()
    return {folder.manifest_uri: folder for stage in found.stages for folder in stage.folders if folder.is_sound}


@settings(max_examples=300)
@given(buckets(), policies)
def test_nothing_is_found_that_somebody_may_need(bucket: Bucket, policy: dict[str, float]) -> None:
    inventory, found = bucket.inventory(), bucket.plan(**policy)
    doomed = {finding.folder.manifest_uri for finding in found if not isinstance(finding, ForgottenUpload)}
    offered = {offer.source.uri for offer in inventory.offers.values()}
    assert not doomed & (set(inventory.pinned) | offered)
    for stage in inventory.stages:
        sound = [folder for folder in stage.folders if folder.is_sound]
        assert not doomed & {each.manifest_uri for each in sound if each.manifest.verdict.manifest.is_final}
        counted = [each for each in sound if each.manifest_uri in stage.admissible] or sound
        if counted and not stage.has_unknown_fences:
            newest = max(counted, key=lambda folder: (folder.key.step, folder.key.attempt))
            assert newest.manifest_uri not in doomed
        if stage.has_unknown_fences:
            assert not doomed & {folder.manifest_uri for folder in stage.folders if folder.manifest}
        living = max(
            [*(each.attempt for each in stage.records), *(each.key.attempt for each in stage.folders)], default=1
        )
        for finding in found:
            if finding.folder in stage.folders and finding.folder.key.attempt == living:
                young = [info for info in finding.objects if _age(bucket, info.uri) <= policy["older_than"]]
                assert isinstance(finding, SupersededCheckpoint) or not young


def _age(bucket: Bucket, uri: str) -> float:
    return (bucket.now - bucket.objects[uri][1]).total_seconds() / 3600


@settings(max_examples=300)
@given(buckets(), policies)
def test_what_was_removed_is_not_found_again(bucket: Bucket, policy: dict[str, float]) -> None:
    bucket.remove(bucket.plan(**policy))
    assert bucket.plan(**policy) == []


@settings(max_examples=300)
@given(buckets(), policies, st.integers(0, 12))
def test_a_removal_that_is_killed_leaves_every_remaining_manifest_whole(
    bucket: Bucket, policy: dict[str, float], most: int
) -> None:
    before, found = _sound(bucket), bucket.plan(**policy)
    bucket.remove(found, most=most)
    left = {uri for uri in before if uri in bucket.objects}
    assert left == set(_sound(bucket))
    kinds = {type(finding) for finding in bucket.plan(**policy)}
    assert kinds <= {SupersededCheckpoint, LateCheckpoint, Orphans, ForgottenUpload}
