"""Keys in the object store: what is written can be read back, and attempts never touch each other."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internvl_trainer.contract import keys
from internvl_trainer.contract.base import Component
from internvl_trainer.contract.exit_codes import DO_NOT_RETRY, ExitCode, explain, is_retryable

pytestmark = pytest.mark.unit

stages = st.from_regex(r"[a-z][a-z0-9.-]{0,20}", fullmatch=True)
storage = st.sampled_from(["s3://bucket", "s3://bucket/some/prefix/", "file:///folder"])


@given(storage, st.uuids().map(str), stages, st.integers(0, 10**10), st.integers(1, 10**4))
def test_a_manifest_key_tells_stage_step_and_attempt(root: str, uid: str, stage: str, step: int, attempt: int) -> None:
    uri = keys.manifest_uri(root, uid, stage, step, attempt)
    assert keys.parse_manifest_key(uri) == (stage, step, attempt)
    assert uri.startswith(keys.checkpoint_prefix(root, uid, stage, step, attempt))
    assert uri.startswith(keys.stage_prefix(root, uid, stage))
    assert uri.startswith(keys.run_prefix(root, uid))
    assert "//" not in uri.partition("://")[2]


@given(stages, st.integers(0, 10**6), st.integers(1, 99), st.integers(1, 99))
def test_two_attempts_write_to_different_folders(stage: str, step: int, one: int, other: int) -> None:
    first = keys.checkpoint_prefix("s3://bucket", "uid", stage, step, one)
    second = keys.checkpoint_prefix("s3://bucket", "uid", stage, step, other)
    assert (one == other) == first.startswith(second)


@given(st.lists(st.integers(0, 10**7), min_size=2, unique=True))
def test_a_listing_by_name_is_a_listing_by_step(steps: list[int]) -> None:
    uris = [keys.manifest_uri("s3://bucket", "uid", "stage", step, 1) for step in sorted(steps)]
    assert uris == sorted(uris)


@pytest.mark.parametrize(
    "key",
    [
        "s3://bucket/uid/stage1/step-00000040/a2/__0_0.distcp",
        "s3://bucket/uid/stage1/published/a2/vision.json",
        "s3://bucket/uid/stage1/step-00000040/a2/MANIFEST.json.bak",
        "s3://bucket/uid/stage1/step-40/a2/MANIFEST.json",
        "s3://bucket/uid/stage1/step-00000040/MANIFEST.json",
    ],
)
def test_other_keys_are_no_manifests(key: str) -> None:
    assert keys.parse_manifest_key(key) is None


def test_a_component_lies_beside_the_checkpoints_of_its_attempt() -> None:
    uri = keys.component_uri("s3://bucket/prefix", "uid", "stage1", 3, Component.VISION)
    assert uri == "s3://bucket/prefix/uid/stage1/published/a3/vision.json"


@given(st.integers(0, 255))
def test_every_exit_code_has_an_explanation_and_a_verdict(code: int) -> None:
    assert explain(code)
    known = {exit_code.value for exit_code in ExitCode}
    assert is_retryable(code) == (code != 0 and (code not in known or ExitCode(code) not in DO_NOT_RETRY))


def test_codes_do_not_collide_with_deaths_by_signal_or_with_python() -> None:
    assert all(code == 0 or 2 <= code < 128 for code in ExitCode)
    assert explain(137) == "killed by signal 9"
    assert explain(ExitCode.INVALID_CHECKPOINT) == "invalid checkpoint"
    assert explain(1) == "crashed with exit code 1"
