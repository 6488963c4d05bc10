"""Whatever can be wrong with data: each fault is told with file, line and reason, and the others are still read."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
import pytest
from PIL import Image

from hack.example_data import clip, save_clip
from internvl_trainer.contract.exit_codes import ExitCode
from tests.integration.curation.commands import TOKENIZER, Ended, begin, end, run
from tests.unit.trainer.data.world import formula_image, image_record, text_record

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

MIB = 1024 * 1024
PICTURE_LIMIT = 1200 * MIB
"""Of a worker that decodes 100 megapixels: the imports take 150 MiB, the whole picture as RGB 286 MiB."""


class Line(NamedTuple):
    """A line of an annotation file, and what a check must say of it."""

    content: dict[str, Any] | str
    reason: str = ""
    """Empty: it is fine."""
    words: str = ""
    warning: str = ""


def grounding(number: int, answer: str) -> dict[str, Any]:
    record = image_record(number, "good.jpg")
    record["conversations"][1]["value"] = f"<ref>cat</ref><box>{answer}</box>"
    return record


def placeholders(number: int, count: int) -> dict[str, Any]:
    record = image_record(number, "good.jpg")
    record["conversations"][0]["value"] = "<image>\n" * count + "q"
    return record


def video(number: int, name: str) -> dict[str, Any]:
    turns = [{"from": "human", "value": "<video>\nq"}, {"from": "gpt", "value": "a"}]
    return {"id": number, "video": name, "conversations": turns}


LINES = [
    Line(image_record(1, "good.jpg")),
    Line(image_record(2, "cmyk.jpg")),
    Line(image_record(3, "grey16.png")),
    Line(image_record(4, "truncated.jpg"), "image unreadable", "truncated.jpg cannot be decoded: damaged JPEG: "),
    Line(image_record(5, "truncated.jpg", 640, 480), "image unreadable", "truncated.jpg cannot be decoded"),
    Line(image_record(6, "empty.jpg"), "image unreadable", "empty.jpg cannot be decoded: empty (0 bytes)"),
    Line(image_record(7, "missing.jpg"), "image unreadable", "missing.jpg does not exist"),
    Line(image_record(8, "missing.jpg", 640, 480), "image unreadable", "missing.jpg does not exist"),
    Line(image_record(9, "words.jpg"), "image unreadable", "no image format is known that begins with b'404 Not"),
    Line(
        image_record(10, "good.jpg", 112, 112),
        "image size differs from the record",
        "good.jpg is 640 x 480 px and gives 13 tiles where its record's width and height give 1; correct the record",
    ),
    Line(image_record(11, "huge.jpg")),
    Line(image_record(12, "huge.png"), "image too large", "huge.png is too large: 10000 x 10000 px, 100 megapixels"),
    Line('{"id": 13, "conversations": [', "malformed record", "not valid JSON (EOF while parsing a list"),
    Line("[14]", "malformed record", "a JSON list, not an object"),
    Line('{"id": 15}', "malformed record", "field 'conversations' must be a non-empty list of turns"),
    Line("\x00\x01\x02", "malformed record", "not valid JSON"),
    Line(placeholders(17, 3), "placeholders do not match images", "3 <image> in human turns for 1 images"),
    Line(placeholders(18, 2), "placeholders do not match images", "2 <image> in human turns for 1 images"),
    Line(grounding(19, "[[NaN, 1, 2, 3]]"), "malformed box", "[[NaN, 1, 2, 3]]</box>: 'NaN' is no finite number"),
    Line(grounding(20, "[[100, 200, 300, 400]]")),
    Line(grounding(21, "[[100, 200, 300, 1400]]"), warning="coordinates must be integers of 0..1000"),
    Line(video(22, "good.mp4")),
    Line(video(23, "damaged.mp4"), "video unreadable", "damaged.mp4 cannot be used: "),
    Line(video(24, "words.mp4"), "video unreadable", "words.mp4 cannot be used: it is of no known video format"),
    Line(video(25, "empty.mp4"), "video unreadable", "empty.mp4 cannot be used: it is empty (0 bytes)"),
    Line(video(26, "missing.mp4"), "video unreadable", "missing.mp4 cannot be used: it does not exist"),
    Line(text_record(27)),
    Line(text_record(1), warning="has the id of line 1"),
]
"""The id of each but the last is the number of its line."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One data set with everything that can be wrong with its lines and files."""
    folder = tmp_path_factory.mktemp("bad")
    write_media(folder)
    lines = [line.content if isinstance(line.content, str) else json.dumps(line.content) for line in LINES]
    (folder / "all.jsonl").write_text("\n".join(lines) + "\n")
    write_meta(folder, {"all": {"annotation": "all.jsonl"}})
    return folder


def write_media(folder: Path) -> None:
    picture = formula_image(640, 480)
    picture.save(folder / "good.jpg", quality=90)
    (folder / "truncated.jpg").write_bytes((folder / "good.jpg").read_bytes()[:20_000])
    picture.convert("CMYK").save(folder / "cmyk.jpg")
    Image.fromarray((np.arange(640 * 480, dtype=np.uint32) % 65536).astype(np.uint16).reshape(480, 640)).save(
        folder / "grey16.png"
    )
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "words.jpg").write_text("404 Not Found")
    huge = Image.new("RGB", (10_000, 10_000), "purple")
    huge.save(folder / "huge.jpg")
    huge.save(folder / "huge.png", compress_level=1)
    save_clip(clip("ring", "red", "left")[1], folder / "good.mp4")
    film = bytearray((folder / "good.mp4").read_bytes())
    (folder / "damaged.mp4").write_bytes(film[: len(film) // 3])
    (folder / "words.mp4").write_text("404 Not Found")
    (folder / "empty.mp4").write_bytes(b"")


def write_meta(folder: Path, entries: dict[str, Any] | str, name: str = "meta.json") -> None:
    (folder / name).write_text(entries if isinstance(entries, str) else json.dumps(entries))


def checked(folder: Path, *options: object, meta: str = "meta.json") -> Ended:
    return run(*arguments(folder, *options, meta=meta), cache=folder / "cache")


def arguments(folder: Path, *options: object, meta: str = "meta.json") -> list[object]:
    return [
        "check", folder / meta, "--tokenizer", TOKENIZER, "--model", "tiny-8b-like", "--workers", "1",
        "--set", "max_frames=8", *options,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def ended(folder: Path) -> Ended:
    process = begin(*arguments(folder, "--bad", folder / "bad.jsonl", "--output", "json"), cache=folder / "cache")
    with peak_memory(process.pid) as peak:
        result = end(process)
    assert 0 < peak[0] < PICTURE_LIMIT, f"a worker took {peak[0] / MIB:.0f} MiB"
    return result


@contextmanager
def peak_memory(pid: int) -> Iterator[list[int]]:
    """The most bytes that one process below `pid` had to itself, looked at many times a second."""
    peak, done = [0], threading.Event()

    def look() -> None:
        while not done.wait(0.01):
            try:
                children = psutil.Process(pid).children(recursive=True)
                peak[0] = max([peak[0], *(child.memory_info().rss for child in children)])
            except psutil.Error:
                continue

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()


def test_every_fault_is_told_and_nothing_else_is(folder: Path, ended: Ended) -> None:
    assert ended.code == ExitCode.INVALID_CONFIG, ended.errors
    told = {fault["line"]: fault for fault in map(json.loads, (folder / "bad.jsonl").read_text().splitlines())}
    for number, line in enumerate(LINES, start=1):
        fault = told.pop(number, None)
        assert (fault["reason"] if fault else "") == line.reason, f"line {number}: {fault}"
        if fault:
            assert line.words in fault["detail"], fault
            assert fault["file"] == f"{folder}/all.jsonl"
    assert not told
    assert ended.errors == "", "libraries do not speak beside us"


def test_what_is_only_suspicious_is_a_warning(ended: Ended) -> None:
    told = {fault["line"]: fault["detail"] for fault in ended.document["first_warnings"]}
    for number, line in enumerate(LINES, start=1):
        assert (number in told) is bool(line.warning), told
        assert line.warning in told.get(number, "")


def test_the_report_counts_them_and_refuses_the_data(ended: Ended) -> None:
    (source,) = ended.document["sources"]
    bad = sum(bool(line.reason) for line in LINES)
    assert (source["samples"], sum(source["bad"].values())) == (len(LINES), bad)
    assert source["kinds"] == {"text": 2, "single image": 6, "multi image": 0, "video": 1}
    (problem,) = ended.document["problems"]
    assert problem.startswith(f"data set 'all': {bad} of {len(LINES)} samples are bad, limit 1 %;")


def test_within_a_larger_budget_a_stage_would_begin(folder: Path) -> None:
    ended = checked(folder, "--set", "max_bad_fraction=0.8", "--output", "json")
    assert ended.code == 0, ended.errors
    assert ended.document["estimate"]["samples"] == sum(not line.reason for line in LINES)


def test_without_pixels_what_only_pixels_tell_is_not_told(folder: Path) -> None:
    ended = checked(folder, "--no-pixels", "--output", "json")
    told = {(fault["line"], fault["reason"]) for fault in ended.document["first_bad"]}
    assert (13, "malformed record") in told
    assert not {line for line, _ in told} & {5, 8, 10}, "these lines state sizes, so no file is opened"


def test_a_terminal_gets_file_and_line(folder: Path) -> None:
    ended = checked(folder)
    assert f"{folder}/all.jsonl:13: not valid JSON" in ended.output
    assert f"{folder}/all.jsonl:6: image {folder}/empty.jpg cannot be decoded: empty (0 bytes)" in ended.output
    assert "A stage would not begin: data set 'all'" in ended.output


ENTRY = '{"annotation": "all.jsonl"}'


@pytest.mark.parametrize(
    ("meta", "words"),
    [
        (f'{{\n"all": {ENTRY},\n"other": {ENTRY},\n"all": {ENTRY}}}', "names all in lines 2, 4 more than once"),
        ('{"all": {"annotation": "all.parquet"}}', "'all.parquet'; must be a .jsonl file"),
        ('{"all": {"annotation": "gs://bucket/all.jsonl"}}', "gs://"),
        ('{"all": {"annotation": "absent.jsonl"}}', "absent.jsonl does not exist"),
        ('{"all": {"annotation": "all.jsonl", "type": "webdataset"}}', "type"),
        ('{"all": ', "not valid JSON"),
    ],
)  # fmt: skip
def test_a_meta_json_that_cannot_be_meant_ends_before_anything_is_read(folder: Path, meta: str, words: str) -> None:
    write_meta(folder, meta, "wrong.json")
    ended = checked(folder, meta="wrong.json")
    assert ended.code == ExitCode.INVALID_CONFIG
    assert words in ended.errors, ended.errors
    assert "wrong.json" in ended.errors or "absent.jsonl" in ended.errors
