"""JSONL lines: what is accepted, and the typed reason for everything else."""

import json

import pytest

from internvl_trainer.data.errors import BadSampleError, MalformedRecordError, VideoNotSupportedError
from internvl_trainer.data.records import Record, parse_record

pytestmark = pytest.mark.unit

TURNS = [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "ho"}]


def _parse(**fields: object) -> Record:
    line = json.dumps({"id": 7, "conversations": TURNS} | fields).encode()
    return parse_record(line, source="set", line_number=3)


def test_a_single_image_with_its_size() -> None:
    record = _parse(image="a.png", width=30, height=20)

    assert (record.name, record.images, record.sizes) == ("set:7", ("a.png",), ((30, 20),))
    assert [turn.role for turn in record.turns] == ["human", "gpt"]


def test_several_images_with_lists_of_sizes() -> None:
    assert _parse(image=["a.png", "b.png"], width=[3, 4], height=[5, 6]).sizes == ((3, 5), (4, 6))


@pytest.mark.parametrize("nothing", [None, "", []])
def test_an_empty_image_field_means_text(nothing: object) -> None:
    record = _parse(image=nothing, width=None)

    assert (record.images, record.sizes) == ((), None)


def test_a_record_without_id_is_named_by_its_line() -> None:
    assert _parse(id=None).name == "set:line 3"


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
        ({"image": "a.png", "width": 0, "height": 5}, "one positive size"),
    ],
)
def test_a_malformed_field_is_named(fields: dict[str, object], message: str) -> None:
    with pytest.raises(MalformedRecordError, match=message) as caught:
        _parse(**fields)

    assert str(caught.value).startswith("sample set:7: ")


def test_a_line_that_is_no_object_is_named_by_its_number() -> None:
    for line, message in [(b"{", "not valid JSON"), (b"[1]", "a JSON list"), (b"\xff", "not valid JSON")]:
        with pytest.raises(BadSampleError, match=f"sample set:line 3: {message}"):
            parse_record(line, source="set", line_number=3)


def test_video_is_refused_as_not_supported_yet() -> None:
    with pytest.raises(VideoNotSupportedError, match=r"set:7: video 'v\.mp4'"):
        _parse(video="v.mp4")
