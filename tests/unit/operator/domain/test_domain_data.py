"""What a stage trains on: the spec's data with the stage's own over it, and mistakes told with the field's name."""

from typing import Any

import pytest

from internvl_operator.api.spec import TrainingSpec
from internvl_operator.domain.stages import Expansion, expand
from internvl_trainer.contract.job import DataConfig
from tests.property.world import training_spec

pytestmark = pytest.mark.unit

MIXTURE = [
    {"name": "chart_qa", "annotation": "s3://data/chart_qa.jsonl", "root": "s3://data/chart_qa", "repeat": "2.5"},
    {"name": "clips", "annotation": "s3://data/clips.jsonl", "maxTiles": 1, "augment": True},
]
TOKENIZER = {"tokenizer": "s3://data/tokenizer"}


def spec(defaults: dict[str, Any], own: dict[str, Any] | None = None) -> TrainingSpec:
    stage = training_spec(1).stages[0].to_dict() | {"data": own or {}}
    return training_spec(1, data=defaults, stages=[stage])


def config(defaults: dict[str, Any], own: dict[str, Any] | None = None) -> DataConfig:
    expansion = expand(spec(defaults, own))
    assert expansion.problems == ()
    return expansion.stages[0].data


def problems(expansion: Expansion) -> list[str]:
    return [str(problem) for problem in expansion.problems]


def test_a_mixture_reaches_the_trainer_with_numbers_for_decimals() -> None:
    data = config(TOKENIZER | {"mixture": MIXTURE, "maxBadFraction": "0.05"})

    charts, clips = data.mixture
    assert (charts.name, charts.repeat, charts.max_tiles, charts.augment) == ("chart_qa", 2.5, None, False)
    assert (clips.root, clips.repeat, clips.max_tiles, clips.augment) == ("", 1.0, 1, True)
    assert (data.meta, data.max_bad_fraction) == (None, 0.05)


def test_what_is_not_said_is_as_the_trainer_has_it() -> None:
    data = config(TOKENIZER | {"meta": "s3://data/meta.json"})

    expected = DataConfig(
        meta="s3://data/meta.json", tokenizer="s3://data/tokenizer", index="s3://runs/demo/data-index/"
    )
    assert data == expected


def test_settings_of_conversations_and_videos_are_inherited_one_by_one() -> None:
    defaults = {"meta": "s3://m", "template": "Hermes-2", "minFrames": 4, "maxFrames": 16, "repeatMode": "reference"}

    data = config(TOKENIZER | defaults, {"maxFrames": 64, "frameSampling": "fps0.5", "workers": 0})

    assert (data.template, data.min_frames, data.max_frames) == ("Hermes-2", 4, 64)
    assert (data.frame_sampling, data.repeat_mode, data.workers) == ("fps0.5", "reference", 0)


@pytest.mark.parametrize(
    ("defaults", "own", "kept"),
    [
        ({"meta": "s3://m"}, {"mixture": MIXTURE}, "mixture"),
        ({"mixture": MIXTURE}, {"meta": "s3://m"}, "meta"),
        ({"mixture": MIXTURE}, {"maxTiles": 6}, "mixture"),
        ({}, {"mixture": MIXTURE}, "mixture"),
    ],
)
def test_a_stage_that_names_its_data_sets_drops_those_of_the_spec(
    defaults: dict[str, Any], own: dict[str, Any], kept: str
) -> None:
    data = config(TOKENIZER | defaults, own)

    assert bool(data.mixture) == (kept == "mixture")
    assert bool(data.meta) == (kept == "meta")


@pytest.mark.parametrize(
    ("defaults", "own", "told"),
    [
        (
            {"meta": "s3://m", "mixture": MIXTURE, **TOKENIZER},
            {},
            "spec.data.mixture: meta is given, too; give one of the two",
        ),
        (
            TOKENIZER,
            {"meta": "s3://m", "mixture": MIXTURE},
            "spec.stages[stage0].data.mixture: meta is given, too; give one of the two",
        ),
        (
            TOKENIZER,
            {},
            "spec.stages[stage0].data.meta: is not set, neither for the stage nor as spec.data, nor is mixture",
        ),
        (
            {"mixture": [*MIXTURE, MIXTURE[0]], **TOKENIZER},
            {},
            "spec.stages[stage0].data.mixture[chart_qa]: this name is used twice; names of data sets must differ",
        ),
    ],
)
def test_what_is_wrong_is_told_with_the_name_of_the_field(
    defaults: dict[str, Any], own: dict[str, Any], told: str
) -> None:
    assert problems(expand(spec(defaults, own))) == [told]


def test_fewer_frames_at_most_than_at_least_are_refused() -> None:
    (told,) = problems(expand(spec(TOKENIZER | {"meta": "s3://m"}, {"minFrames": 64})))

    assert told == "spec.stages[stage0].data: min_frames is 64, more than max_frames, 32"
