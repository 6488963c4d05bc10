"""Frames that are sought equal those of decoding from the beginning, in every format; what is no video says why."""

import io
import random
import struct
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from internvl_trainer.data.video.decode import VideoFile
from internvl_trainer.data.video.film import VideoError
from internvl_trainer.data.video.timeline import Timeline
from tests.unit.trainer.data.video.films import KINDS, Kind, all_frames, film, frame_of, number_of

pytestmark = pytest.mark.unit

FRAMES = 70
OPEN_GROUPS = KINDS[2]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_sought_frames_equal_those_of_decoding_from_the_beginning(kind: Kind) -> None:
    data = film(FRAMES, kind)
    judge = all_frames(data)
    assert [number_of(picture) for picture in judge] == list(range(FRAMES))

    with VideoFile(data) as video:
        assert (video.frames, video.rate) == (FRAMES, 25.0)
        for seed in range(4):
            chosen = sorted(random.Random(seed).sample(range(FRAMES), 9))
            for index, picture_HWC in zip(chosen, video.pictures(chosen), strict=True):
                assert np.array_equal(picture_HWC, judge[index])


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_one_frame_alone_is_the_right_one_after_any_other(kind: Kind) -> None:
    with VideoFile(film(FRAMES, kind)) as video:
        for index in (FRAMES - 1, 0, 40, 11, 12, 13, 1):
            (picture_HWC,) = video.pictures([index])
            assert number_of(picture_HWC) == index


def test_groups_in_this_test_are_open() -> None:
    """The first frames after a key frame are shown before it, so the nearest key frame is not enough."""
    with av.open(io.BytesIO(film(FRAMES, OPEN_GROUPS))) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    keys = [number for number, packet in enumerate(packets) if packet.is_keyframe]

    assert any(packets[key + 1].pts < packets[key].pts for key in keys if key and key + 1 < len(packets))


def test_frames_at_uneven_times_are_counted_not_timed() -> None:
    times = np.cumsum([0, *(20 if number % 3 else 170 for number in range(59))]).tolist()
    data = film(60, Kind("libx264", "matroska"), times=times)

    with VideoFile(data) as video:
        assert video.frames == 60
        chosen = [0, 7, 29, 30, 31, 59]
        assert [number_of(picture) for picture in video.pictures(chosen)] == chosen


def test_a_file_is_read_in_place_whatever_its_name(tmp_path: Path) -> None:
    path = tmp_path / "concat:a|b.mp4"
    path.write_bytes(film(5))

    with VideoFile(path) as video:
        assert [number_of(picture) for picture in video.pictures([1, 4])] == [1, 4]


def _corner(data: bytes) -> tuple[int, int]:
    """Where the display matrix in an MP4's track header puts the first column of the picture's axes."""
    at = data.index(b"tkhd") + 4 + 40
    a, b = struct.unpack(">ii", data[at : at + 8])
    return a // 65536, b // 65536


@pytest.mark.parametrize("rotation", [90, -90, 180])
def test_a_lying_film_is_turned_upright(rotation: int) -> None:
    data = film(3, rotation=rotation)
    with VideoFile(data) as video:
        (turned_HWC,) = video.pictures([1])

    # The frame's white column is on its left. The matrix says where "right" points once it is shown.
    right = _corner(data)
    lying_HWC = all_frames(data)[1]
    expected = {(0, -1): turned_HWC[::-1].swapaxes(0, 1), (0, 1): turned_HWC.swapaxes(0, 1)[::-1]}
    assert right == {90: (0, -1), -90: (0, 1), 180: (-1, 0)}[rotation]
    assert np.array_equal(expected.get(right, turned_HWC[::-1, ::-1]), lying_HWC)


def _audio() -> bytes:
    sink = io.BytesIO()
    with av.open(sink, "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return sink.getvalue()


def _picture() -> bytes:
    sink = io.BytesIO()
    Image.fromarray(frame_of(1)).save(sink, "PNG")
    return sink.getvalue()


def _noise(frames: int) -> list[np.ndarray]:
    draw = np.random.default_rng(0)
    return [draw.integers(0, 255, frame_of(0).shape, dtype=np.uint8) for _ in range(frames)]


NOISE = film(_noise(30), muxer={"moov_size": "20000"})
PLAYLIST = b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nfile:///etc/hostname\n#EXT-X-ENDLIST\n"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", r"empty \(0 bytes\)"),
        (b"no video at all" * 100, "no known video format"),
        (_picture(), "no known video format"),
        (PLAYLIST, "no known video format"),
        (b"ffconcat version 1.0\nfile /etc/hostname\n", "no known video format"),
        (_audio(), "no moving pictures in it, but audio"),
        (film(0), "no moving pictures in it, but nothing"),
        (film(0, Kind("libx264", "avi")), "no frame in it"),
        (film(30)[:900], "or cut off"),
        (NOISE[: len(NOISE) // 2], "header lists 30 frames, and the data ends within frame"),
    ],
    ids=[
        "empty",
        "text",
        "picture",
        "playlist",
        "list of files",
        "audio",
        "no track",
        "no frame",
        "no index",
        "cut off",
    ],
)
def test_what_is_no_video_says_why(data: bytes, message: str) -> None:
    with pytest.raises(VideoError, match=message):
        VideoFile(data)


def test_a_missing_file_is_no_video(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="does not exist"):
        VideoFile(tmp_path / "gone.mp4")


def test_a_recording_that_was_cut_is_as_long_as_what_is_left() -> None:
    data = film(_noise(40), Kind("libx264", "mpegts"))
    with VideoFile(data[: len(data) // 2]) as video:
        assert 10 < video.frames < 30
        assert len(list(video.pictures(range(video.frames - 3)))) == video.frames - 3


def test_damage_is_an_error_where_it_lies_and_no_matter_elsewhere() -> None:
    damaged = bytearray(film(_noise(60)))
    middle = len(damaged) // 2
    damaged[middle : middle + 4000] = bytes(n * 7 % 256 for n in range(4000))

    with VideoFile(bytes(damaged)) as video:
        assert len(list(video.pictures([0, 5, 59]))) == 3
        with pytest.raises(VideoError, match=r"FFmpeg says: Invalid data|damaged|cannot be decoded"):
            list(video.pictures(range(25, 36)))


def test_frames_too_large_to_hold_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("internvl_trainer.data.video.decode.LARGEST_FRAME", 128 * 64 - 1)

    with pytest.raises(VideoError, match="its frames are 128 x 64 px; at most"):
        VideoFile(film(3))


def _decodable(times: list[int], keys: list[bool], begin: int) -> set[int]:
    """Frames that decoding from a key frame yields: the rule, stated over packets one by one."""
    assert keys[begin]
    return {time for number, time in enumerate(times) if number >= begin and time >= times[begin]}


@given(st.permutations(range(12)), st.lists(st.booleans(), min_size=12, max_size=12))
def test_each_frame_is_decoded_from_a_key_frame_that_leads_to_it(times: list[int], keys: list[bool]) -> None:
    timeline = Timeline.of(times, keys, [True] * 12)

    if timeline is None:
        assert not any(keys)
        return
    reached = set(timeline.shown_F.tolist())
    assert timeline.shown_F.tolist() == sorted(reached)
    starts = [number for number, key in enumerate(keys) if key]
    assert reached == {time for start in starts for time in _decodable(times, keys, start)}
    for time, begin in zip(timeline.shown_F.tolist(), timeline.begin_F.tolist(), strict=True):
        assert time in _decodable(times, keys, begin)
        assert not any(time in _decodable(times, keys, later) for later in starts if later > begin)


def test_packets_that_are_not_shown_are_no_frames() -> None:
    timeline = Timeline.of([0, 1, 2, 3], [True, False, True, False], [False, False, True, True])

    assert timeline is not None
    assert timeline.shown_F.tolist() == [2, 3]


def test_two_packets_of_one_time_are_no_timeline() -> None:
    assert Timeline.of([0, 1, 1], [True, False, False], [True] * 3) is None
