"""JSONL lines: what is accepted, and the typed reason for everything else."""

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internvl_trainer.data import records
from internvl_trainer.data.errors import BadSampleError, MalformedRecordError, VideoNotSupportedError
from internvl_trainer.data.records import Kind, Record, parse_record

pytestmark = pytest.mark.unit

TURNS = [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "ho"}]


def _parse(**fields: object) -> Record:
    line = json.dumps({"id": 7, "conversations": TURNS} | fields).encode()
    return parse_record(line, source="set", line_number=3, annotation="s3://data/dir/a.jsonl")


def test_a_single_image_with_its_size() -> None:
    record = _parse(image="a.png", width=30, height=20)

    assert (record.name, record.images, record.sizes) == ("set:7 (a.jsonl line 3)", ("a.png",), ((30, 20),))
    assert [turn.role for turn in record.turns] == ["human", "gpt"]


def test_several_images_with_lists_of_sizes() -> None:
    assert _parse(image=["a.png", "b.png"], width=[3, 4], height=[5, 6]).sizes == ((3, 5), (4, 6))


@pytest.mark.parametrize("nothing", [None, "", []])
def test_an_empty_image_field_means_text(nothing: object) -> None:
    record = _parse(image=nothing, width=None)

    assert (record.images, record.sizes) == ((), None)


def test_a_record_without_id_is_named_by_its_line() -> None:
    assert _parse(id=None).name == "set:line 3 (a.jsonl)"


@pytest.mark.parametrize(("given_id", "shown"), [("a-1", "a-1"), (0, "0"), (1.5, "1.5"), (False, "False"), ("", "")])
def test_an_id_is_any_json_scalar(given_id: Any, shown: str) -> None:
    assert _parse(id=given_id).name == f"set:{shown} (a.jsonl line 3)"


def test_an_id_that_is_no_scalar_is_none() -> None:
    assert _parse(id=[1, 2]).name == "set:line 3 (a.jsonl)"


def test_an_id_cannot_break_out_of_its_line() -> None:
    name = _parse(id="evil\nsample other:1: fine" + "x" * 1000).name

    assert "\n" not in name
    assert len(name) < 200


def test_without_a_file_a_name_still_has_its_line() -> None:
    line = json.dumps({"id": 7, "conversations": TURNS}).encode()

    assert parse_record(line, source="demo", line_number=9).name == "demo:7 (line 9)"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"conversations": []}, "non-empty list of turns"),
        ({"conversations": [{"from": "bot", "value": ""}]}, "turn 0 must have 'from' .* is 'bot'"),
        ({"conversations": [{"from": "gpt"}]}, "text 'value'"),
        ({"conversations": ["hi"]}, "turn 0"),
        ({"conversations": [*TURNS, {"from": "system", "value": "s"}]}, "turn 2 is a system turn"),
        ({"image": 5}, "path or a list of paths; is 5"),
        ({"image": ["a.png", ""]}, "path or a list of paths"),
        ({"image": "a.png", "width": 5}, "1 images, but width 5 and height None"),
        ({"image": ["a.png", "b.png"], "width": [1], "height": [1]}, "2 images"),
        ({"image": "a.png", "width": 0, "height": 5}, "one size of 1..2147483647 pixels"),
        ({"image": "a.png", "width": True, "height": 5}, "width True"),
        ({"image": "a.png", "width": float("nan"), "height": 5}, "width nan"),
        ({"image": "a.png", "width": 5, "height": float("inf")}, "height inf"),
        ({"image": "a.png", "width": 2.5, "height": 5}, "width 2.5"),
        ({"image": "a.png", "width": 10**30, "height": 5}, "width 1000000"),
        ({"image": "a.png", "width": "640", "height": "480"}, "width '640'"),
        ({"image": "a\0b.png"}, "no path has a zero character"),
        ({"video": "a\0b.mp4"}, "no path has a zero character"),
        ({"video": "v.mp4", "clip": [3, 3]}, "0 <= start < end; is \\[3, 3\\]"),
        ({"video": "v.mp4", "clip": [-1, 3]}, "0 <= start < end"),
        ({"video": "v.mp4", "clip": [1]}, "must be \\[start, end\\]"),
        ({"video": "v.mp4", "clip": "1-3"}, "must be \\[start, end\\]"),
        ({"video": "v.mp4", "clip": [0, float("nan")]}, "is \\[0, nan\\]"),
        ({"video": "v.mp4", "clip": [0, float("inf")]}, "is \\[0, inf\\]"),
        ({"video": "v.mp4", "clip": [0, 10**400]}, "must be \\[start, end\\]"),
    ],
)
def test_a_malformed_field_is_named(fields: dict[str, object], message: str) -> None:
    with pytest.raises(MalformedRecordError, match=message) as caught:
        _parse(**fields)

    assert str(caught.value).startswith("sample set:7 (a.jsonl line 3): ")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{", "not valid JSON"),
        (b"[1]", "a JSON list, not an object"),
        (b"null", "a JSON NoneType"),
        (b'{"id": 1}{"id": 2}', "not valid JSON"),
        (b"\xff", "not UTF-8 .* at byte 0"),
        (b'{"id": "\xed\xa0\x80"}', "not UTF-8"),
        ('{"id": 1}'.encode("utf-16"), "not UTF-8"),
        (rb'{"id": "\ud800"}', "not valid Unicode"),
        (rb'{"id": "\udc00x"}', "not valid Unicode"),
        (b"[" * 1_000_000, "not valid JSON"),
        (b'{"id": 1' + b"0" * 100_000 + b"}", "not valid JSON"),
    ],
)
def test_a_line_that_cannot_be_parsed_is_named_by_its_number(line: bytes, message: str) -> None:
    with pytest.raises(MalformedRecordError, match=rf"sample set:line 3 \(a\.jsonl\): {message}"):
        parse_record(line, source="set", line_number=3, annotation="a.jsonl")


def test_a_line_too_long_to_be_a_record_is_not_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "LONGEST_LINE", 1000)

    with pytest.raises(MalformedRecordError, match="has 1,001 bytes, and a record at most 1,000"):
        parse_record(b"x" * 1001, source="set", line_number=3)


def test_a_byte_order_mark_and_surrogate_pairs_are_no_fault() -> None:
    line = b"\xef\xbb\xbf" + json.dumps({"conversations": [{"from": "human", "value": "\U0001f600"}]}).encode()

    assert parse_record(line, source="set", line_number=1).turns[0].text == "\U0001f600"


def test_whatever_other_fields_hold_is_not_looked_at() -> None:
    assert _parse(score=float("nan"), length="long", width=float("nan")).kind is Kind.TEXT


def test_a_size_may_be_written_as_a_float() -> None:
    assert _parse(image="a.png", width=640.0, height=480).sizes == ((640, 480),)


def test_a_video_with_a_clip() -> None:
    record = _parse(video="v.mp4", clip=[1, 2.5], width=640, height=480)

    assert (record.video, record.clip, record.kind) == ("v.mp4", (1.0, 2.5), Kind.VIDEO)
    assert _parse(video="frames/", clip=None).clip is None


@pytest.mark.parametrize("nothing", [None, "", []])
def test_an_empty_video_field_means_none(nothing: object) -> None:
    assert _parse(video=nothing).kind is Kind.TEXT


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"video": ["a.mp4", "b.mp4"]}, r"video \['a\.mp4', 'b\.mp4'\]: a sample has one video"),
        ({"video": "v.mp4", "image": "a.png"}, r"video 'v\.mp4' beside 1 images"),
        ({"video": {"path": "v.mp4"}}, "one path, or one folder of frames"),
    ],
)
def test_several_videos_and_videos_among_images_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(VideoNotSupportedError, match=message):
        _parse(**fields)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
FIELDS = st.sampled_from(["id", "conversations", "image", "video", "clip", "width", "height"])


@given(st.dictionaries(FIELDS, JSON, max_size=7), st.booleans())
def test_any_json_object_is_a_record_or_has_a_typed_reason(fields: dict[str, Any], talks: bool) -> None:
    line = json.dumps(fields | ({"conversations": TURNS} if talks else {})).encode()
    with contextlib.suppress(BadSampleError):
        assert parse_record(line, source="set", line_number=1).turns


@given(st.binary(max_size=40))
def test_any_bytes_are_a_record_or_have_a_typed_reason(line: bytes) -> None:
    with pytest.raises(BadSampleError, match="line 1"):
        parse_record(line, source="set", line_number=1)
