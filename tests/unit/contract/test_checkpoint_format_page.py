"""docs/reference/checkpoint-format.md names every field of the documents that it describes, and every object."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from internvl_trainer.contract import keys
from internvl_trainer.contract.attempts import AttemptRecord, NewestCheckpoint
from internvl_trainer.contract.base import Component
from internvl_trainer.contract.job import CONFIG_FILE
from internvl_trainer.contract.manifest import ComponentManifest, Manifest
from internvl_trainer.contract.pin import Pin

pytestmark = pytest.mark.unit

PAGE = (Path(__file__).parents[3] / "docs/reference/checkpoint-format.md").read_text()
DOCUMENTS = (Manifest, ComponentManifest, AttemptRecord, NewestCheckpoint, Pin)
QUOTED = set(re.findall(r"`([^`]+)`", PAGE))


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """All models that an annotation speaks of, theirs included."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
        for field in annotation.model_fields.values():
            yield from _models(field.annotation)
    for part in get_args(annotation):
        yield from _models(part)


@pytest.mark.parametrize(
    "model", sorted({each for kind in DOCUMENTS for each in _models(kind)}, key=lambda kind: kind.__name__)
)
def test_every_field_is_named(model: type[BaseModel]) -> None:
    assert [name for name in model.model_fields if name not in QUOTED] == []


@pytest.mark.parametrize("kind", DOCUMENTS)
def test_every_format_is_named(kind: type[BaseModel]) -> None:
    assert kind.model_fields["format"].default in QUOTED


def test_objects_are_named_as_the_keys_are() -> None:
    stage = keys.stage_prefix("s3://bucket", "uid", "stage1")
    manifest = keys.manifest_uri("s3://bucket", "uid", "stage1", 40, 2)
    places = [
        manifest,
        keys.pin_uri(manifest),
        keys.published_by_hand_uri(manifest, Component.VISION),
        keys.component_uri("s3://bucket", "uid", "stage1", 2, Component.VISION),
        keys.attempt_uri("s3://bucket", "uid", "stage1", 2),
        keys.newest_uri("s3://bucket", "uid", "stage1", 2),
        keys.folder_of(manifest) + keys.METRICS_NAME,
        keys.folder_of(manifest) + CONFIG_FILE,
    ]
    assert [place for place in places if place.removeprefix(stage) not in QUOTED] == []
