"""Which frames of a video are shown."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internvl_trainer.data.records import Record, Turn
from internvl_trainer.data.video.frames import Sampling, choose, clip_span, drawn_count, paced, spread
from tests.unit.trainer.data.world import golden

pytestmark = pytest.mark.unit

CASES = golden("video_frames.json")["cases"]
PARTED = [case for case in CASES if "middle" in case]
PACED = [case for case in CASES if "sample" in case]


@pytest.mark.parametrize("case", PARTED, ids=lambda case: f"{case['num_frames']} of {case['vlen']}")
def test_the_middle_of_each_part_equals_the_reference(case: dict[str, int]) -> None:
    assert spread(case["vlen"], case["num_frames"]) == case["middle"]


@pytest.mark.parametrize("case", PACED, ids=lambda case: f"{case['sample']} of {case['vlen']}")
def test_frames_at_a_pace_equal_the_reference(case: dict[str, float | str]) -> None:
    rate = float(str(case["sample"]).removeprefix("fps"))

    chosen = paced(int(case["vlen"]), float(case["input_fps"]), rate, int(case["max_num_frames"]))

    assert chosen == case["indices"]


@pytest.mark.parametrize("case", PARTED, ids=lambda case: f"{case['num_frames']} of {case['vlen']}")
def test_random_frames_lie_in_the_part_that_the_reference_draws_from(case: dict[str, int]) -> None:
    count = min(case["vlen"], case["num_frames"])
    for epoch in range(20):
        chosen = spread(case["vlen"], case["num_frames"], (42, epoch))
        for position, (index, theirs) in enumerate(zip(chosen, case["rand_seed0"], strict=True)):
            part = min(position, count - 1)
            low, high = part * case["vlen"] // count, (part + 1) * case["vlen"] // count
            assert low <= index < high
            # Where a part has one frame, the reference draws from the whole video.
            assert low <= theirs < high or case["vlen"] < 2 * count


@given(st.integers(1, 5000), st.integers(1, 64), st.none() | st.integers())
def test_every_part_shows_one_frame(frames: int, count: int, seed: int | None) -> None:
    chosen = spread(frames, count, None if seed is None else (seed,))

    assert len(chosen) == count
    assert chosen == sorted(chosen)
    assert all(0 <= index < frames for index in chosen)
    assert len(set(chosen)) == min(frames, count)
    if frames < count:
        assert chosen == [*range(frames), *[frames - 1] * (count - frames)]


def test_a_draw_reaches_every_frame_of_a_part_and_follows_its_key() -> None:
    drawn = [tuple(spread(12, 3, (7, epoch))) for epoch in range(300)]

    assert {frames[1] for frames in drawn} == {4, 5, 6, 7}
    assert spread(12, 3, (7, 5)) == list(drawn[5])


@given(st.integers(1, 5000), st.floats(0.01, 1000), st.floats(0.01, 100), st.integers(1, 40))
def test_a_pace_shows_at_least_one_frame_and_no_more_than_the_limit(
    frames: int, rate: float, per_second: float, limit: int
) -> None:
    chosen = paced(frames, rate, per_second, limit)

    assert 1 <= len(chosen) <= limit
    assert chosen == sorted(chosen)
    assert all(0 <= index < frames for index in chosen)


def test_a_header_that_lies_about_its_rate_costs_no_memory() -> None:
    assert len(paced(2_000_000, 1e-6, 30.0, 32)) == 32


def _record(text: str, video: str = "v.mp4", name: str = "s:1") -> Record:
    return Record(name, (Turn("human", text), Turn("gpt", "a")), video=video)


def test_the_number_of_frames_belongs_to_the_sample_wherever_it_stands() -> None:
    sampling = Sampling("rand", 8, 32)

    assert drawn_count(_record("q", name="s:1 (a.jsonl line 1)"), sampling) == drawn_count(_record("q"), sampling)
    drawn = Counter(drawn_count(_record(f"q{number}"), sampling) for number in range(2500))
    assert set(drawn) == set(range(8, 33))
    assert max(drawn.values()) < 2 * min(drawn.values())


def test_the_number_of_frames_is_the_same_in_every_version() -> None:
    sampling = Sampling("middle", 8, 32)

    assert [drawn_count(_record(f"q{number}"), sampling) for number in range(4)] == [23, 25, 13, 25]


def test_a_clip_confines_the_choice() -> None:
    span = clip_span(300, 30.0, (2.0, 4.5))

    assert span == range(60, 135)
    assert choose(span, 30.0, Sampling("middle", 3, 3), 3, ()) == [60 + index for index in spread(75, 3)]
    assert choose(span, 30.0, Sampling("fps1"), 0, ()) == [75, 105]


@pytest.mark.parametrize(
    ("clip", "span"),
    [
        (None, range(300)),
        ((0.0, 10.0), range(300)),
        ((8.0, 60.0), range(240, 300)),
        ((9.98, 9.99), range(299, 300)),
        ((10.0, 12.0), None),
        ((1e8, 1e9), None),
    ],
)
def test_a_clip_is_cut_to_its_video(clip: tuple[float, float] | None, span: range | None) -> None:
    assert clip_span(300, 30.0, clip) == span


@given(st.integers(1, 1000), st.floats(0.1, 200), st.floats(0, 100), st.floats(0.001, 100))
def test_a_clip_that_begins_inside_its_video_has_a_frame(frames: int, rate: float, start: float, length: float) -> None:
    span = clip_span(frames, rate, (start, start + length))

    if span is None:
        assert start * rate >= frames
    else:
        assert 0 <= span.start < span.stop <= frames
