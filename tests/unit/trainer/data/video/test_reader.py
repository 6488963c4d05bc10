"""Samples with a video, from their record to tokens and tiles."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from internvl_trainer.contract.catalog import ModelGeometry
from internvl_trainer.contract.job import DataConfig
from internvl_trainer.data import Tokenizer
from internvl_trainer.data.errors import (
    ClipOutsideVideoError,
    MalformedBoxError,
    TooManyTilesError,
    VideoUnreadableError,
)
from internvl_trainer.data.media import MediaReader
from internvl_trainer.data.records import Kind, Record, Turn
from internvl_trainer.data.samples import SampleReader
from internvl_trainer.data.sources import Source
from internvl_trainer.data.video import reader as video_reader
from internvl_trainer.storage import open_store
from tests.unit.trainer.data.video.films import film, frame_of, number_of
from tests.unit.trainer.data.world import GOLDEN

pytestmark = pytest.mark.unit

MakeReader = Callable[..., SampleReader]


@pytest.fixture
def make_reader(geometry: ModelGeometry, qwen: Tokenizer) -> MakeReader:
    def make(**config: Any) -> SampleReader:
        data = DataConfig(meta="meta.json", tokenizer=str(GOLDEN / "qwen2_5_subset"), **config)
        return SampleReader(data, geometry, qwen, MediaReader(open_store()))

    return make


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return Source(name="films", number=0, annotation="a.jsonl", root=f"file://{tmp_path}", data_augment=True)


def _record(video: str, clip: tuple[float, float] | None = None, answer: str = "a1") -> Record:
    turns = (Turn("human", "<video>\nq1"), Turn("gpt", answer))
    return Record("films:1 (a.jsonl line 1)", turns, video=video, clip=clip)


def _numbers(reader: SampleReader, record: Record, source: Source, *key: int) -> list[int]:
    sample = reader.encode(record, source)
    tiles_NHWC = reader.load_tiles(sample, key)
    assert tiles_NHWC.shape == (len(sample.tiles), 112, 112, 3)
    return [number_of(tile_HWC) for tile_HWC in tiles_NHWC]


def test_each_frame_is_one_tile_and_no_file_is_opened_to_count_them(make_reader: MakeReader, source: Source) -> None:
    measured = make_reader(min_frames=5, max_frames=5).measure(_record("not-there.mp4"), source)

    assert (measured.tiles, measured.kind) == (5, Kind.VIDEO)


def test_the_middle_of_each_part_is_shown(make_reader: MakeReader, source: Source, tmp_path: Path) -> None:
    (tmp_path / "v.mp4").write_bytes(film(100))
    reader = make_reader(min_frames=4, max_frames=4, frame_sampling="middle")

    assert _numbers(reader, _record("v.mp4"), source, 1) == [12, 37, 62, 87]


def test_random_frames_change_with_the_epoch_alone(make_reader: MakeReader, source: Source, tmp_path: Path) -> None:
    (tmp_path / "v.mp4").write_bytes(film(100))
    reader = make_reader(min_frames=4, max_frames=4)

    epochs = [_numbers(reader, _record("v.mp4"), source, 42, epoch) for epoch in range(6)]

    assert len({tuple(numbers) for numbers in epochs}) > 1
    assert epochs[3] == _numbers(reader, _record("v.mp4"), source, 42, 3)
    assert all(25 * part <= numbers[part] < 25 * (part + 1) for numbers in epochs for part in range(4))


def test_a_short_video_shows_its_last_frame_again(make_reader: MakeReader, source: Source, tmp_path: Path) -> None:
    (tmp_path / "v.mp4").write_bytes(film(3))

    assert _numbers(make_reader(min_frames=6, max_frames=6), _record("v.mp4"), source, 1) == [0, 1, 2, 2, 2, 2]


def test_frames_by_seconds_are_counted_in_the_video(make_reader: MakeReader, source: Source, tmp_path: Path) -> None:
    (tmp_path / "v.mp4").write_bytes(film(100))
    reader = make_reader(frame_sampling="fps1", min_frames=1, max_frames=3)

    assert reader.measure(_record("v.mp4"), source).tiles == 3
    assert _numbers(reader, _record("v.mp4"), source, 1) == [12, 38, 62]
    assert _numbers(reader, _record("v.mp4", (2.0, 4.0)), source, 1) == [62, 88]


def test_video_is_never_augmented(make_reader: MakeReader, source: Source, tmp_path: Path) -> None:
    (tmp_path / "frames").mkdir()
    Image.fromarray(frame_of(5)).resize((112, 112), Image.Resampling.NEAREST).save(tmp_path / "frames" / "1.png")
    reader = make_reader(min_frames=1, max_frames=1)

    tiles_NHWC = reader.load_tiles(reader.encode(_record("frames/"), source), (1,))

    assert source.data_augment
    assert np.array_equal(tiles_NHWC[0], np.asarray(Image.open(tmp_path / "frames" / "1.png")))


def test_a_folder_of_frames_is_sorted_by_number(make_reader: MakeReader, source: Source, tmp_path: Path) -> None:
    (tmp_path / "frames" / "deeper").mkdir(parents=True)
    for number in range(12):
        Image.fromarray(frame_of(number)).save(tmp_path / "frames" / f"shot2_{number}.jpg", quality=95)
    (tmp_path / "frames" / "README.txt").write_text("not a frame")
    Image.fromarray(frame_of(99)).save(tmp_path / "frames" / "deeper" / "shot2_5.jpg")
    reader = make_reader(min_frames=12, max_frames=12)

    assert _numbers(reader, _record("frames/"), source, 1) == list(range(12))


def test_tiles_are_written_where_they_are_wanted(make_reader: MakeReader, source: Source, tmp_path: Path) -> None:
    (tmp_path / "v.mp4").write_bytes(film(3))
    reader = make_reader(min_frames=3, max_frames=3)
    pack_NHWC = np.zeros((5, 112, 112, 3), np.uint8)

    reader.load_tiles(reader.encode(_record("v.mp4"), source), (1,), pack_NHWC[1:4])

    assert [number_of(tile_HWC) for tile_HWC in pack_NHWC] == [0, 0, 1, 2, 0]


def test_bytes_of_a_remote_store_are_held_in_memory_up_to_a_limit(
    make_reader: MakeReader, source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "v.mp4").write_bytes(data := film(3))
    monkeypatch.setattr(MediaReader, "local", staticmethod(lambda uri: None))
    reader = make_reader(min_frames=3, max_frames=3)

    monkeypatch.setattr(video_reader, "LARGEST_OBJECT", len(data))
    assert _numbers(reader, _record("v.mp4"), source, 1) == [0, 1, 2]
    monkeypatch.setattr(video_reader, "LARGEST_OBJECT", len(data) - 1)
    with pytest.raises(VideoUnreadableError, match=r"v\.mp4 cannot be used: it has more than .* MiB, too large"):
        _numbers(reader, _record("v.mp4"), source, 1)


@pytest.mark.parametrize(
    ("video", "message"),
    [
        ("gone.mp4", "gone.mp4 cannot be used: it does not exist"),
        ("empty.mp4", "empty.mp4 cannot be used: it is empty (0 bytes)"),
        ("folder.mp4", "folder.mp4 cannot be used: it does not exist"),
        ("nothing/", "nothing/ cannot be used: there is no image"),
        ("broken/", "broken/ cannot be used: frame 1.png cannot be decoded"),
        ("ftp://host/v.mp4", "ftp://host/v.mp4 has no usable address"),
        ("empty.mp4/v.mp4", "v.mp4 cannot be used: it does not exist"),
        ("x" * 300, "characters) cannot be used: it does not exist"),
    ],
)
def test_an_unusable_video_is_a_reason_with_the_sample(
    make_reader: MakeReader, source: Source, tmp_path: Path, video: str, message: str
) -> None:
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "1.png").write_bytes(b"\x89PNG\r\n\x1a\nno")
    reader = make_reader(min_frames=2, max_frames=2)
    sample = reader.encode(_record(video), source)

    expected = rf"^sample films:1 \(a\.jsonl line 1\): video .*{re.escape(message)}"
    with pytest.raises(VideoUnreadableError, match=expected):
        reader.load_tiles(sample, (1,))


def test_a_clip_after_the_end_is_a_reason(make_reader: MakeReader, source: Source, tmp_path: Path) -> None:
    (tmp_path / "v.mp4").write_bytes(film(50))
    reader = make_reader(min_frames=2, max_frames=2)

    with pytest.raises(ClipOutsideVideoError, match=r"clip \[2\.0, 3\.0\] s of video v\.mp4, which ends after 2\.00 s"):
        _numbers(reader, _record("v.mp4", (2.0, 3.0)), source, 1)


def test_a_video_that_was_replaced_since_it_was_counted_is_a_reason(
    make_reader: MakeReader, source: Source, tmp_path: Path
) -> None:
    (tmp_path / "v.mp4").write_bytes(film(100))
    reader = make_reader(frame_sampling="fps1")
    sample = reader.encode(_record("v.mp4"), source)
    (tmp_path / "v.mp4").write_bytes(film(50))

    with pytest.raises(VideoUnreadableError, match="it shows 2 frames, and showed 4 when it was indexed"):
        reader.load_tiles(sample, (1,))


def test_more_frames_than_a_pack_has_tiles_are_a_reason(make_reader: MakeReader, source: Source) -> None:
    reader = make_reader(min_frames=9, max_frames=9, pack_tiles=8)

    with pytest.raises(TooManyTilesError, match="9 tiles, a pack holds 8; lower max_frames"):
        reader.measure(_record("v.mp4"), source)


def test_a_box_without_a_value_is_a_reason(make_reader: MakeReader, source: Source) -> None:
    with pytest.raises(MalformedBoxError, match="turn 1 has <box>"):
        make_reader().measure(_record("v.mp4", answer="<box>[[1, 2, NaN, 4]]</box>"), source)


def test_no_frames_a_second_are_refused_by_the_configuration() -> None:
    with pytest.raises(ValueError, match="more than 0 frames a second"):
        DataConfig(meta="m", tokenizer="t", frame_sampling="fps0.0")
