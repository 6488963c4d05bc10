"""Documents survive the way through the store, and anything that is not quite one of them does not."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from internvl_trainer.contract import catalog
from internvl_trainer.contract.base import Component, RunIdentity
from internvl_trainer.contract.job import CheckpointConfig, DataConfig, JobConfig, OptimizationConfig, StorageConfig
from internvl_trainer.contract.manifest import ComponentManifest, Manifest, ParallelLayout
from tests.unit.contract.documents import component_manifests, few, manifests

pytestmark = pytest.mark.unit


@few
@given(manifests)
def test_a_manifest_comes_back_as_it_went(manifest: Manifest) -> None:
    again = Manifest.from_bytes(manifest.to_bytes())
    assert again == manifest
    assert again.to_bytes() == manifest.to_bytes(), "digests are taken of these bytes"


@few
@given(component_manifests)
def test_a_component_manifest_comes_back_as_it_went(manifest: ComponentManifest) -> None:
    assert ComponentManifest.from_bytes(manifest.to_bytes()) == manifest


@few
@given(manifests)
def test_the_two_kinds_of_manifest_are_never_taken_for_each_other(manifest: Manifest) -> None:
    with pytest.raises(ValidationError):
        ComponentManifest.from_bytes(manifest.to_bytes())


@few
@given(manifests, st.sampled_from(["step", "objects", "run", "format"]))
def test_a_manifest_of_another_version_is_refused(manifest: Manifest, field: str) -> None:
    document = json.loads(manifest.to_bytes())
    with pytest.raises(ValidationError, match="surprise"):
        Manifest.from_bytes(json.dumps({**document, "surprise": 1}).encode())
    with pytest.raises(ValidationError):
        Manifest.from_bytes(json.dumps({**document, "format": "internvl-checkpoint/v2"}).encode())
    if field != "format":
        del document[field]
        with pytest.raises(ValidationError, match=field):
            Manifest.from_bytes(json.dumps(document).encode())


@few
@given(manifests)
def test_a_manifest_is_final_when_no_step_is_left(manifest: Manifest) -> None:
    assert manifest.is_final == (manifest.total_steps - manifest.step <= 0)
    assert manifest.total_bytes == sum(stored.size for stored in manifest.objects)


def _job(*, global_batch: int, data: int) -> JobConfig:
    return JobConfig(
        run=RunIdentity(uid="uid", namespace="default", name="run"),
        stage="stage1",
        attempt=1,
        model=catalog.get("tiny-1b-like"),
        layout=ParallelLayout(data=data),
        trainable=(Component.PROJECTOR,),
        data=DataConfig(meta="s3://data/meta.json", tokenizer="s3://data/tokenizer"),
        optimization=OptimizationConfig(steps=1, peak_lr=1e-4, global_batch=global_batch),
        checkpoint=CheckpointConfig(every_steps=1),
        storage=StorageConfig(uri="s3://bucket/prefix"),
    )


@given(st.integers(1, 64), st.integers(1, 64))
def test_a_batch_is_shared_evenly_or_refused_with_the_numbers(global_batch: int, data: int) -> None:
    if global_batch % data == 0:
        job = _job(global_batch=global_batch, data=data)
        assert JobConfig.from_bytes(job.to_bytes()) == job
    else:
        with pytest.raises(ValidationError, match=f"global_batch is {global_batch} packs, which {data} data-parallel"):
            _job(global_batch=global_batch, data=data)


@pytest.mark.parametrize("name", list(catalog.MODELS))
def test_every_model_of_the_catalogue_adds_up(name: str) -> None:
    model = catalog.get(name)
    assert model.name == name
    assert model.vision.image_size % model.vision.patch_size == 0
    assert model.vision.hidden % model.vision.heads == 0
    assert model.language.heads % model.language.kv_heads == 0
    assert model.projector_input == 4 * model.vision.hidden
    assert model.tokens_per_tile == (256 if model.vision.image_size == 448 else 16)


def test_an_unknown_model_is_told_the_known_ones() -> None:
    with pytest.raises(catalog.UnknownModelError, match=r"'InternVL9' is not in the catalogue; .*InternVL2_5-8B"):
        catalog.get("InternVL9")
