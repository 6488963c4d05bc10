"""The meta JSON: InternVL's fields, checked, and repeats that are exact."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internvl_trainer.data.errors import MetaError
from internvl_trainer.data.sources import draws_of_epoch, join, parse_meta
from tests.unit.trainer.data.world import golden

pytestmark = pytest.mark.unit

ENTRY = {"root": "pictures/", "annotation": "emoji.jsonl", "data_augment": True, "repeat_time": 2.5, "length": 9}


def test_paths_are_resolved_beside_the_meta_file_and_defaults_filled_in() -> None:
    payload = json.dumps({"emoji": ENTRY, "text": {"annotation": "s3://other/text.jsonl"}}).encode()

    emoji, text = parse_meta(payload, uri="s3://bucket/demo/meta.json")

    assert (emoji.root, emoji.annotation) == ("s3://bucket/demo/pictures/", "s3://bucket/demo/emoji.jsonl")
    assert (emoji.data_augment, emoji.repeat_time, emoji.max_dynamic_patch) == (True, 2.5, None)
    assert (text.name, text.number, text.annotation) == ("text", 1, "s3://other/text.jsonl")
    assert (text.repeat_time, text.data_augment) == (1.0, False)


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "at least one data set"),
        ("{}", "at least one data set"),
        ('{"a": {"annotation": "a.jsonl"}, "a": {"annotation": "b.jsonl"}}', "names a more than once"),
        ('{"a": {"annotation": "a.json"}}', "must be a .jsonl file"),
        ('{"a": {"annotation": "a.jsonl", "repeat": 2}}', "repeat: Extra inputs are not permitted"),
        ('{"a": {"annotation": "a.jsonl", "repeat_time": -1}}', "repeat_time: Input should be greater than 0"),
        ('{"a": {}}', "annotation: Field required"),
    ],
)
def test_a_wrong_meta_file_is_refused_with_the_place(payload: str, message: str) -> None:
    with pytest.raises(MetaError, match=message):
        parse_meta(payload.encode(), uri="meta.json")


@pytest.mark.parametrize(
    ("folder", "path", "joined"),
    [
        ("s3://b/x", "y.png", "s3://b/x/y.png"),
        ("s3://b/x/", "./y.png", "s3://b/x/y.png"),
        ("/data", "s3://b/y.png", "s3://b/y.png"),
        ("/data", "/y.png", "/y.png"),
        ("/data", "", "/data"),
    ],
)
def test_joining_keeps_absolute_paths(folder: str, path: str, joined: str) -> None:
    assert join(folder, path) == joined


def _draws(repeat_time: float, epoch: int = 0, samples: int = 10) -> list[int]:
    return draws_of_epoch(samples, repeat_time, key=(42,), epoch=epoch).tolist()


def test_repeats_draw_as_many_samples_as_the_reference() -> None:
    for case in golden("repeat_and_sharding.json")["repeat"]:
        if "error" not in case:
            assert len(_draws(case["repeat_time"])) == len(case["ids"]), case
        if case["repeat_time"] in (1, 3):
            assert _draws(case["repeat_time"]) == sorted(case["ids"])


def test_a_fraction_above_one_is_whole_passes_and_a_seeded_part() -> None:
    drawn = _draws(2.3)

    assert {drawn.count(sample) for sample in range(10)} == {2, 3}
    assert len(drawn) == 23


def test_a_decimal_means_what_it_says() -> None:
    assert len(_draws(0.29, samples=100)) == 29


def test_a_fraction_goes_through_all_samples_before_it_repeats_one() -> None:
    drawn = [sample for epoch in range(5) for sample in _draws(0.4, epoch)]

    assert sorted(drawn) == sorted([*range(10), *range(10)])


@given(st.integers(0, 60), st.floats(0.01, 4.0), st.integers(0, 9))
def test_no_sample_is_drawn_twice_more_often_than_another(samples: int, repeat_time: float, epoch: int) -> None:
    drawn = _draws(repeat_time, epoch, samples)
    counts = [drawn.count(sample) for sample in range(samples)]

    assert len(drawn) == pytest.approx(samples * repeat_time, abs=1)
    assert max(counts, default=0) - min(counts, default=0) <= 1


def test_an_epoch_is_the_same_when_asked_for_again() -> None:
    both: list[Any] = [_draws(1.5, epoch=3), _draws(1.5, epoch=3)]

    assert both[0] == both[1]
    assert _draws(1.5, epoch=4) != both[0]
