"""Grounding boxes: made from pixels, reported where odd, refused where they are no numbers."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internvl_trainer.data import boxes
from internvl_trainer.data.errors import MalformedBoxError
from internvl_trainer.data.records import Record, Turn

pytestmark = pytest.mark.unit


def _asked_and_answered(question: str, answer: str) -> Record:
    return Record("s:1 (a.jsonl line 2)", (Turn("human", question), Turn("gpt", answer)))


EDGES = st.lists(st.integers(0, 1000), min_size=2, max_size=2).map(sorted)
BOX = st.tuples(EDGES, EDGES).map(lambda xy: (xy[0][0], xy[1][0], xy[0][1], xy[1][1]))


@given(st.lists(BOX, min_size=1, max_size=4))
def test_what_is_made_for_the_format_is_without_fault(made: list[tuple[int, int, int, int]]) -> None:
    text = f"There is {boxes.grounded('a cat', made)}."

    assert boxes.faults(text, "gpt") == []


@given(
    st.floats(1, 10_000),
    st.floats(1, 10_000),
    st.lists(st.floats(0, 1), min_size=2, max_size=2).map(sorted),
    st.lists(st.floats(0, 1), min_size=2, max_size=2).map(sorted),
)
def test_a_box_inside_its_image_is_normalised_into_the_range(
    width: float, height: float, x: list[float], y: list[float]
) -> None:
    box = (x[0] * width, y[0] * height, x[1] * width, y[1] * height)

    normalised = boxes.normalise_box(box, width, height)

    assert boxes.faults(boxes.grounded("x", [normalised]), "gpt") == []
    scales = (width, height, width, height)
    for edge, given_edge, scale in zip(normalised, box, scales, strict=True):
        assert abs(edge / 1000 * scale - given_edge) <= scale / 2000 * (1 + 1e-9)


def test_normalising_rounds_to_the_nearest_thousandth() -> None:
    assert boxes.normalise_box((64, 48, 320, 480), 640, 480) == (100, 100, 500, 1000)
    assert boxes.normalise_box((1, 1, 2, 2), 3, 3) == (333, 333, 667, 667)


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ((0, 0, 1), "four finite numbers"),
        ((0, 0, math.nan, 1), "four finite numbers"),
        ((0, 0, math.inf, 1), "four finite numbers"),
        ((5, 0, 4, 1), "x1 <= x2"),
        ((0, 0, 11, 1), "within the image"),
        ((-1, 0, 1, 1), "within the image"),
    ],
)
def test_a_box_that_lies_in_no_image_cannot_be_normalised(box: tuple[float, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        boxes.normalise_box(box, 10, 10)


@pytest.mark.parametrize("word", ["NaN", "nan", "-inf", "Infinity", "None", "null"])
@pytest.mark.parametrize("role", ["human", "gpt"])
def test_a_coordinate_without_a_value_is_refused_in_any_turn(word: str, role: str) -> None:
    text = f"<ref>cat</ref><box>[[1, 2, {word}, 4]]</box>"
    record = _asked_and_answered(*((text, "ok") if role == "human" else ("where?", text)))

    with pytest.raises(MalformedBoxError) as caught:
        boxes.check(record)

    message = str(caught.value)
    assert message.startswith(f"sample s:1 (a.jsonl line 2): turn {int(role == 'gpt')} has <box>[[1, 2, {word}, 4]]")
    assert f"'{word}' is no finite number" in message


def test_words_are_refused_where_they_are_learned_and_left_where_they_ask() -> None:
    quoted = "Answer as <box>[[x1, y1, x2, y2]]</box>."

    boxes.check(_asked_and_answered(quoted, "<box>[[1, 2, 3, 4]]</box>"))
    assert "'x1' is no number" in boxes.oddities(_asked_and_answered(quoted, "no"))[0]
    with pytest.raises(MalformedBoxError, match="'x1' is no finite number"):
        boxes.check(_asked_and_answered("where?", quoted))


@pytest.mark.parametrize(
    ("box", "problem"),
    [
        ("<box>[[1, 2, 3]]</box>", "3 numbers where a box has 4"),
        ("<box>[[1.5, 2, 3, 4]]</box>", "integers of 0..1000"),
        ("<box>[[1, 2, 3, 1001]]</box>", "integers of 0..1000"),
        ("<box>[[-1, 2, 3, 4]]</box>", "integers of 0..1000"),
        ("<box>[[1, 2, 3, 4], [9, 2, 3, 4]]</box>", "edges are in the wrong order"),
        ("<box>[1, 2, 3, 4]</box>", "not written as"),
        ("<box>(1,2),(3,4)</box>", "not written as"),
        ("<box></box>", "not written as"),
        ("<box>[[]]</box>", "1 numbers where a box has 4"),
        ("<box>[[1, 2, 3, 4]]", "</box> is missing"),
        ("<box>[[1, 2, 3, 4]] <box>[[1, 2, 3, 4]]</box>", "</box> is missing"),
    ],
)
def test_odd_boxes_are_reported_and_trained_on(box: str, problem: str) -> None:
    record = _asked_and_answered("where?", f"here: {box} and <box>[[1, 2, 3, 4]]</box>")

    boxes.check(record)

    (sentence,) = boxes.oddities(record)
    assert sentence.startswith("turn 1 has <box>")
    assert problem in sentence


def test_a_long_box_is_cut_in_the_message() -> None:
    (fault,) = boxes.faults(f"<box>[[{'1, ' * 1000}nan]]</box>", "gpt")

    assert len(fault.text) < 100


@given(st.text(alphabet=st.sampled_from("<box>/[](),. 0159nainf-eE\n"), max_size=60))
def test_any_text_is_judged_without_an_error(text: str) -> None:
    for fault in boxes.faults(f"<box>{text}", "gpt"):
        assert fault.problem
