"""The meta JSON: InternVL's fields, checked, and repeats that are exact."""

import json
from pathlib import Path

import pytest

from internvl_trainer.contract.job import DataConfig, MixtureSource
from internvl_trainer.data.errors import MetaError
from internvl_trainer.data.sources import from_mixture, join, parse_meta, read_sources
from internvl_trainer.storage import open_store

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
        ("{", "line 1 column 2: not valid JSON"),
        ('{\n"a": {,}}', "line 2 column 7: not valid JSON"),
        ("[]", "at least one data set"),
        ("{}", "at least one data set"),
        (
            '{"a": {"annotation": "a.jsonl"},\n"b": {"annotation": "b.jsonl"},\n"a": {"annotation": "c.jsonl"}}',
            "meta.json names a in lines 1, 3 more than once; data set names must be unique",
        ),
        (
            '{"a": {"annotation": "a.jsonl",\n"annotation": "b.jsonl"}}',
            "data set 'a' of meta meta.json names annotation in lines 1, 2 more than once",
        ),
        ('{"a": 3}', "data set 'a' of meta meta.json line 1: must be a JSON object, is int"),
        ('{"a":\n{"annotation":\n"a.json"}}', "line 2: annotation is 'a.json'; must be a .jsonl file"),
        ('{"a": {"annotation": "a.parquet"}}', "must be a .jsonl file, one JSON object a line, uncompressed"),
        (
            '{"a": {"annotation": "a.jsonl",\n\n "repeat": 2}}',
            "line 3: repeat: unknown; a data set has root, annotation, data_augment, max_dynamic_patch, repeat_time",
        ),
        ('{"a":\n {}}', "line 1: annotation: Field required"),
        (
            '{"a": {"annotation": "a.jsonl",\n"data_augment": "true"}}',
            "line 2: data_augment: Input should be a valid bool",
        ),
        (
            '{"a": {"annotation": "a.jsonl", "max_dynamic_patch": 0}}',
            "max_dynamic_patch: Input should be greater than or",
        ),
        (
            '{"a": {"annotation": "gs://b/a.jsonl"}}',
            "annotation is 'gs://b/a.jsonl': gs:// cannot be read, but s3://, file",
        ),
        ('{"a": {"annotation": "hdfs://b/a.jsonl"}}', "copy the data to a store that speaks S3"),
        ('{"a": {"annotation": "a.jsonl", "root": "s3a://b/x"}}', "root is 's3a://b/x': .*; write 's3://b/x'"),
        (
            '{"a": {"annotation": "one:s3://b/a.jsonl"}}',
            "annotation is 'one:s3://b/a.jsonl': .*; write 's3://b/a.jsonl'",
        ),
        (
            '{"a": {"annotation": "a.jsonl", "root": "one:"}}',
            "leave root out and write whole s3:// URIs in the records",
        ),
    ],
)
def test_a_wrong_meta_file_is_refused_with_the_place(payload: str, message: str) -> None:
    with pytest.raises(MetaError, match=message):
        parse_meta(payload.encode(), uri="meta.json")


@pytest.mark.parametrize("repeat", ["0", "0.0", "-1", "NaN", "Infinity", "-Infinity", '"2"', "true", "null", "[1]"])
def test_a_repeat_that_is_no_number_above_zero_is_refused(repeat: str) -> None:
    payload = f'{{"a": {{"annotation": "a.jsonl",\n"repeat_time": {repeat}}}}}'

    with pytest.raises(MetaError, match=r"line 2: repeat_time: must be a finite number above 0, is .*delete its entry"):
        parse_meta(payload.encode(), uri="meta.json")


def test_names_may_look_like_anything() -> None:
    payload = json.dumps({'a "b": {': {"annotation": "a.jsonl"}, "ä\\": {"annotation": "b.jsonl"}}, indent=3)

    assert [source.name for source in parse_meta(payload.encode(), uri="meta.json")] == ['a "b": {', "ä\\"]


def test_text_that_is_not_utf8_is_refused() -> None:
    with pytest.raises(MetaError, match=r"meta meta\.json is not UTF-8 text"):
        parse_meta("{}".encode("utf-16"), uri="meta.json")


def test_a_repeat_keeps_the_form_in_which_it_was_written() -> None:
    payload = b'{"a": {"annotation": "a.jsonl", "repeat_time": 2}, "b": {"annotation": "b.jsonl", "repeat_time": 2.0}}'

    assert [str(source.repeat_time) for source in parse_meta(payload, uri="meta.json")] == ["2", "2.0"]


def test_reference_mode_refuses_what_the_released_trainer_refuses(tmp_path: Path) -> None:
    (tmp_path / "meta.json").write_text('{"a": {"annotation": "a.jsonl", "repeat_time": 1.5}}')
    data = DataConfig(meta=f"{tmp_path}/meta.json", tokenizer="t", repeat_mode="reference")

    with pytest.raises(MetaError, match=r"data set 'a': repeat_time is 1\.5; above 1 the released trainer takes whole"):
        read_sources(data, open_store())


def test_a_mixture_may_repeat_a_whole_number_of_times_in_reference_mode() -> None:
    mixture = (MixtureSource(name="a", annotation="s3://b/x/a.jsonl", repeat=2),)
    data = DataConfig(mixture=mixture, tokenizer="t", repeat_mode="reference")

    (source,) = read_sources(data, open_store())

    assert (source.repeat_time, source.root) == (2, "s3://b/x")


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([("a", "a.jsonl"), ("a", "b.jsonl")], "the mixture names a more than once"),
        ([("a", "a.csv")], "data set 'a' of the mixture: annotation is 'a.csv'; must be a .jsonl file"),
        ([("a", "gs://b/a.jsonl")], "gs:// cannot be read"),
    ],
)
def test_a_wrong_mixture_is_refused_with_the_data_set(entries: list[tuple[str, str]], message: str) -> None:
    with pytest.raises(MetaError, match=message):
        from_mixture([MixtureSource(name=name, annotation=annotation) for name, annotation in entries])


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
