"""The gate lets a checkpoint through when every object is as its writer said, and names each other fault."""

import hashlib

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from internvl_trainer.contract import gate, keys
from internvl_trainer.contract.base import Component
from internvl_trainer.contract.gate import Expected, Observed
from internvl_trainer.contract.manifest import ComponentManifest, Manifest
from tests.unit.contract.documents import component_manifests, few, manifests

pytestmark = pytest.mark.unit

damaged = manifests.filter(lambda manifest: len(manifest.objects) > 0)


def sound(manifest: Manifest) -> dict[str, Observed]:
    """What a store shows that has all objects of a manifest."""
    return {stored.key: Observed(stored.size, stored.etag) for stored in manifest.objects}


def reasons(problems: tuple[gate.Problem, ...]) -> list[str]:
    return [problem.reason for problem in problems]


@few
@given(manifests)
def test_a_sound_checkpoint_passes(manifest: Manifest) -> None:
    payload = manifest.to_bytes()
    expected = Expected(
        manifest.run.uid,
        manifest.stage,
        manifest.attempt,
        manifest.step,
        final=manifest.is_final,
        sha256=hashlib.sha256(payload).hexdigest(),
    )
    verdict = gate.judge(payload, sound(manifest) | {"leftover": Observed(1)}, expected)
    assert verdict.passed
    assert verdict.manifest == manifest


@few
@given(damaged, st.data())
def test_one_bad_object_is_named(manifest: Manifest, data: st.DataObject) -> None:
    victim = data.draw(st.sampled_from(manifest.objects))
    observed = sound(manifest)
    fault = data.draw(st.sampled_from(["MissingObject", "SizeMismatch", "DigestMismatch", "ETagMismatch"]))
    if fault == "MissingObject":
        del observed[victim.key]
    elif fault == "SizeMismatch":
        observed[victim.key] = Observed(victim.size + 1, victim.etag)
    elif fault == "DigestMismatch":
        observed[victim.key] = Observed(victim.size, victim.etag, sha256="not the digest")
    else:
        assume(victim.etag)
        observed[victim.key] = Observed(victim.size, "another")
    (problem,) = gate.judge_objects(manifest, observed)
    assert problem.reason == fault
    assert victim.key in str(problem)


@few
@given(damaged)
def test_quotes_around_etags_do_not_matter(manifest: Manifest) -> None:
    observed = {key: seen._replace(etag=f'"{seen.etag}"' if seen.etag else "") for key, seen in sound(manifest).items()}
    assert gate.judge_objects(manifest, observed) == ()


@few
@given(manifests)
def test_everything_unexpected_is_named_at_once(manifest: Manifest) -> None:
    expected = Expected("other", "other", manifest.attempt + 1, manifest.step + 1, sha256="0" * 64)
    found = reasons(gate.judge_manifest(manifest.to_bytes(), expected).problems)
    assert found == ["ManifestDigestMismatch", "WrongRun", "WrongStage", "WrongAttempt", "WrongStep"]


@few
@given(manifests)
def test_only_a_final_checkpoint_finishes_a_stage(manifest: Manifest) -> None:
    found = reasons(gate.judge_manifest(manifest.to_bytes(), Expected(final=True)).problems)
    assert found == ([] if manifest.step >= manifest.total_steps else ["NotFinal"])


@given(st.binary(max_size=200))
def test_any_bytes_get_a_verdict(payload: bytes) -> None:
    verdict = gate.judge(payload, {}, Expected())
    assert not verdict.passed
    assert reasons(verdict.problems) == ["Unparsable"]


def test_a_foreign_document_is_not_quoted() -> None:
    (problem,) = gate.judge(b'{"password": "hunter2"}', {}, Expected()).problems
    assert "hunter2" not in str(problem)
    assert "password: extra_forbidden" in str(problem) or "run: missing" in str(problem)


@pytest.mark.parametrize("key", ["../other/x", "/etc/passwd", "a//b", "a/./b", "", "..", "a\\..\\b", "a/../../b"])
def test_a_key_that_leads_out_of_the_folder_is_refused(key: str, a_manifest: Manifest) -> None:
    assert not gate.is_safe_key(key)
    stored = a_manifest.objects[0].model_copy(update={"key": key})
    payload = a_manifest.model_copy(update={"objects": (stored,)}).to_bytes()
    assert reasons(gate.judge_manifest(payload, Expected()).problems) == ["UnsafeKey"]


@pytest.fixture(scope="module")
def a_manifest() -> Manifest:
    from tests.unit.contract.examples import manifest

    return manifest()


@few
@given(component_manifests)
def test_a_component_must_be_the_one_asked_for(offer: ComponentManifest) -> None:
    payload = offer.to_bytes()
    assert gate.judge_component(payload, offer.component, Expected(offer.run.uid, offer.stage, offer.attempt)).passed
    for other in set(Component) - {offer.component}:
        assert reasons(gate.judge_component(payload, other, Expected()).problems) == ["WrongComponent"]


keyed = st.tuples(st.integers(0, 50), st.integers(1, 5))


@given(st.lists(keyed, unique=True), st.integers(1, 5))
def test_candidates_are_newest_first_and_never_of_a_later_attempt(found: list[tuple[int, int]], attempt: int) -> None:
    uris = [keys.manifest_uri("s3://bucket", "uid", "stage1", step, of) for step, of in found]
    others = [
        keys.manifest_uri("s3://bucket", "uid", "stage2", 99, 1),
        "s3://bucket/uid/stage1/step-00000001/a1/__0_0.distcp",
    ]
    candidates = gate.candidates([*uris, *others], stage="stage1", max_attempt=attempt)
    seen = [(candidate.key.step, candidate.key.attempt) for candidate in candidates]
    assert seen == sorted((pair for pair in found if pair[1] <= attempt), reverse=True)
    assert all(keys.parse_manifest_key(candidate.uri) == candidate.key for candidate in candidates)
