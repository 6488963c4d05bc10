"""Saves that go on beside training, retention while it runs, and attempts that overlap."""

import shutil
from pathlib import Path

import pytest

from internvl_trainer.contract import keys
from internvl_trainer.contract.attempts import AttemptRecord
from internvl_trainer.contract.manifest import Manifest
from tests.integration.checkpoint import saving_stories as stories
from tests.integration.checkpoint.stories import LOG, Setting, run_story, saves

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    return Setting(tmp_path, f"file://{tmp_path}/store")


def stage(setting: Setting) -> Path:
    return Path(keys.stage_prefix(setting.storage, "uid-1", "stage1").removeprefix("file://"))


def manifests(setting: Setting) -> list[Path]:
    return sorted(stage(setting).rglob(keys.MANIFEST_NAME))


def steps(setting: Setting) -> list[int]:
    return [Manifest.from_bytes(path.read_bytes()).step for path in manifests(setting)]


def test_training_goes_on_before_the_store_has_taken_a_byte(setting: Setting) -> None:
    (seen,) = run_story(stories.trains_on_while_the_store_is_slow, setting)
    assert seen["committed too early"] == []
    assert seen["committed"] == [(1, "a1")]
    assert seen["told once"] == []
    assert seen["holds"], "what was committed is what was there when the save began"
    assert list((setting.folder / "node0").iterdir()) == []


def test_an_upload_that_fails_beside_training_is_raised_in_it(setting: Setting) -> None:
    (seen,) = run_story(stories.a_failed_upload_is_raised_by_the_next_call, setting)
    assert "cannot write" in seen["raised"]
    assert seen["afterwards"] == []
    assert manifests(setting) == []


def test_what_is_under_way_is_committed_when_training_fails_on_all_ranks_alike(setting: Setting) -> None:
    (seen,) = run_story(stories.a_failure_of_training_keeps_what_is_under_way, setting)
    assert steps(setting) == [1]
    assert seen["left"] == []
    assert "which was under way, is committed" in seen[LOG]


def test_jobs_that_share_a_scratch_do_not_take_each_others_shards(setting: Setting) -> None:
    (seen,) = run_story(stories.two_jobs_share_a_scratch, setting)
    assert (seen["step"], seen["holds"]) == (1, True)


def test_what_a_killed_job_left_in_scratch_is_removed_by_the_next(setting: Setting) -> None:
    with pytest.raises(AssertionError, match="died without a word"):
        run_story(stories.leaves_its_shards, setting)
    scratch = setting.folder / "node0"
    assert list(scratch.glob("checkpoint-save-*/*.distcp"))
    run_story(saves, setting, [2])
    assert list(scratch.iterdir()) == []


def test_a_store_that_is_away_for_a_moment_costs_no_checkpoint(setting: Setting) -> None:
    (seen,) = run_story(stories.an_outage_at_every_exchange, setting)
    assert seen["committed"] == "step-00000001"
    assert steps(setting) == [1]


def test_retention_keeps_the_last_and_the_milestones_and_leaves_no_objects_of_the_others(setting: Setting) -> None:
    (seen,) = run_story(stories.keeps_the_last_two, setting, 7)
    assert steps(setting) == [4, 6, 7]
    assert sorted(path.name for path in stage(setting).glob("step-*")) == [f"step-{step:08d}" for step in (4, 6, 7)]
    assert seen[LOG].count("superseded") == 4


def test_an_attempt_that_was_replaced_commits_nothing_more(setting: Setting) -> None:
    (seen,) = run_story(stories.a_zombie_goes_on_after_it_was_replaced, setting)
    assert seen["told"].startswith("ReplacedAttemptError: attempt 2 of this stage has begun")
    assert steps(setting) == [1, 2]
    record = AttemptRecord.from_bytes((stage(setting) / "attempts" / "a2.json").read_bytes())
    assert [(fence.attempt, fence.step) for fence in record.fences] == [(1, 0), (2, 1)]
    assert record.resumed_from is not None
    assert record.resumed_from.uri.endswith("step-00000001/a1/MANIFEST.json")


def test_a_manifest_that_arrives_late_never_becomes_the_newest(setting: Setting) -> None:
    run_story(stories.a_zombie_goes_on_after_it_was_replaced, setting)
    first, _ = manifests(setting)
    late = stage(setting) / "step-00000005" / "a1"  # its objects are there, the look at the records came too late
    shutil.copytree(first.parent, late, dirs_exist_ok=True)
    document = Manifest.from_bytes(first.read_bytes()).model_copy(update={"step": 5})
    (late / keys.MANIFEST_NAME).write_bytes(document.to_bytes())

    (seen,) = run_story(stories.resumes_and_says, setting, 3)

    assert (seen["step"], seen["holds"]) == (2, True)
    assert "leaving out" in seen[LOG]
    assert "attempt 1 committed it after a later attempt had begun" in seen[LOG]


def test_a_stage_that_goes_on_with_other_seeds_is_refused(setting: Setting) -> None:
    run_story(saves, setting, [1])
    (seen,) = run_story(stories.with_other_seeds, setting)
    assert seen["said"].startswith("SeedError: ")
    assert "was trained with seed 42 and data seed 42, this job has 7 and 42" in seen["said"]
