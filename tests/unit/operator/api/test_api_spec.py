"""What users write: typos and nonsense are refused with the field's place."""

from typing import Any

import pytest
from pydantic import ValidationError

from internvl_operator.api.base import cut
from internvl_operator.api.spec import TrainingSpec
from internvl_operator.api.training import InternVLTraining
from tests.property.world import training_spec

pytestmark = pytest.mark.unit


def written(**changes: Any) -> dict[str, Any]:
    return training_spec(1).to_dict() | changes


def stage(**changes: Any) -> dict[str, Any]:
    return written(stages=[training_spec(1).stages[0].to_dict() | changes])


@pytest.mark.parametrize(
    ("document", "place"),
    [
        (written(paralelism={}), "paralelism"),
        (written(model="InternVL3-8B"), "model"),
        (written(storage={"uri": "http://bucket"}), "storage.uri"),
        (written(stages=[]), "stages"),
        (stage(name="Stage_1"), "stages.0.name"),
        (stage(name="a-much-too-long-name"), "stages.0.name"),
        (stage(steps=0), "stages.0.steps"),
        (stage(trainable=["vit"]), "stages.0.trainable.0"),
        (stage(optimizer={"peakLr": 2e-4}), "stages.0.optimizer.peakLr"),
        (stage(optimizer={"peakLr": "fast"}), "stages.0.optimizer.peakLr"),
        (stage(dropPath="1.5"), "stages.0.dropPath"),
        (written(podTemplate={"sepc": {}}), "podTemplate.sepc"),
        (written(runPolicy={"retry": {"limit": -1}}), "runPolicy.retry.limit"),
        (written(data={"mixture": []}), "data.mixture"),
        (written(data={"frameSampling": "fps0"}), "data.frameSampling"),
        (written(data={"maxBadFraction": "1.5"}), "data.maxBadFraction"),
        (written(data={"template": "chatml"}), "data.template"),
        (written(data={"repeatMode": "about"}), "data.repeatMode"),
        (stage(data={"mixture": [{"name": "a"}]}), "stages.0.data.mixture.0.annotation"),
    ],
)
def test_a_mistake_is_refused_at_its_place(document: dict[str, Any], place: str) -> None:
    with pytest.raises(ValidationError) as caught:
        TrainingSpec.model_validate(document)

    assert ".".join(map(str, caught.value.errors()[0]["loc"])) == place


@pytest.mark.parametrize("repeat", ["0.01", "0.5", "1", "2.25", "4", "99.9", "100", "100.0"])
def test_a_data_set_may_be_repeated_up_to_a_hundred_times_in_any_fraction(repeat: str) -> None:
    source = {"name": "a", "annotation": "s3://data/a.jsonl", "repeat": repeat}

    spec = TrainingSpec.model_validate(written(data={"mixture": [source]}))

    assert spec.data.mixture
    assert 0 < float(spec.data.mixture[0].repeat) <= 100


@pytest.mark.parametrize("repeat", ["0", "0.0", "-1", "100.5", "101", "1e2", "nan", "", "2,5", 2.5])
def test_and_no_other_number_of_times(repeat: object) -> None:
    source = {"name": "a", "annotation": "s3://data/a.jsonl", "repeat": repeat}

    with pytest.raises(ValidationError, match="repeat"):
        TrainingSpec.model_validate(written(data={"mixture": [source]}))


def test_an_unknown_model_is_told_the_known_ones() -> None:
    with pytest.raises(ValidationError, match="known models: InternVL2_5-1B"):
        TrainingSpec.model_validate(written(model="InternVL3-8B"))


def test_a_spec_survives_its_round_trip() -> None:
    spec = training_spec(
        3,
        vision={"from": {"uri": "s3://runs/v.json"}},
        podTemplate={"spec": {"containers": [{"name": "pytorch", "env": [{"name": "A", "value": "b"}]}]}},
        resources={"nodes": 2, "processesPerNode": 2, "container": {"limits": {"cpu": 4, "memory": "8Gi"}}},
    )

    assert TrainingSpec.model_validate(spec.to_dict()) == spec


def test_an_object_as_the_api_server_returns_it_can_be_read() -> None:
    training = InternVLTraining.model_validate(
        {
            "apiVersion": "training.internvl.dev/v1alpha1",
            "kind": "InternVLTraining",
            "metadata": {"name": "demo", "namespace": "team-a", "uid": "u", "generation": 4, "managedFields": []},
            "spec": written(),
        }
    )

    assert (training.identity.name, training.metadata.generation, training.status.stages) == ("demo", 4, ())


def test_long_text_is_cut_with_a_mark() -> None:
    assert cut("abc", 3) == "abc"
    assert cut("abcd", 3) == "ab…"
