"""The demo's conversations: what training sees, and that it never sees what is held out."""

import json
import random
import re
from collections.abc import Iterator

import pytest

from hack.demo import records
from hack.demo.pictures import Picture, is_held_out, read_pictures
from internvl_trainer.data.conversations.placeholders import placed
from internvl_trainer.data.records import Record, parse_record

pytestmark = pytest.mark.unit

EMOJI_TEST = """\
# group: Smileys & Emotion
# subgroup: face-smiling
1F600                                      ; fully-qualified     # 😀 E1.0 grinning face
263A                                       ; unqualified         # ☺ E0.6 smiling face
# group: People & Body
# subgroup: person-role
1F469 200D 1F373                           ; fully-qualified     # 👩‍🍳 E4.0 woman cook
1F469 1F3FB 200D 1F373                     ; fully-qualified     # 👩🏻‍🍳 E4.0 woman cook: light skin tone
# subgroup: sky & weather
1F31E                                      ; fully-qualified     # 🌞 E0.6 sun with face
"""

PICTURES = [Picture(chr(0x1F400 + n), f"animal {n}", "animal mammal") for n in range(40)]


def _parsed(record: records.Record) -> Record:
    return parse_record(json.dumps(record).encode(), source="demo", line_number=1)


def test_pictures_are_the_fully_qualified_emoji_without_skin_tones() -> None:
    pictures = read_pictures(EMOJI_TEST)

    assert [picture.caption for picture in pictures] == [
        "face smiling: grinning face",
        "person role: woman cook",
        "sky and weather: sun with face",
    ]
    assert pictures[1].key == "1f469-200d-1f373"


def test_about_one_picture_in_ten_is_held_out_always_the_same() -> None:
    many = [Picture(chr(0x1F000 + n), f"picture {n}", "kind") for n in range(2000)]

    held_out = [picture for picture in many if is_held_out(picture, 42)]

    assert 150 < len(held_out) < 250
    assert held_out == [picture for picture in many if is_held_out(picture, 42)]
    assert held_out != [picture for picture in many if is_held_out(picture, 43)]


def _all_kinds() -> Iterator[records.Record]:
    draw = random.Random(1)
    yield records.caption(PICTURES[0], 2)
    yield records.kind(PICTURES[0], 2)
    yield records.clues(PICTURES[0], ["wrong"], draw, 0)
    for number in range(20):
        yield records.several(PICTURES, draw, number)
        yield records.sheet(PICTURES, draw, number)[0]


def test_every_record_is_one_that_the_trainer_reads() -> None:
    for record in _all_kinds():
        parsed = _parsed(record)
        turns = placed(parsed, len(parsed.images), in_answers=False)
        assert turns[0].role == "system"
        assert turns[-1].role == "gpt"
        assert len(parsed.sizes or ()) == len(parsed.images)


def test_clues_are_mostly_words_of_the_caption() -> None:
    draw = random.Random(1)
    told = [
        word
        for number in range(200)
        for word in records.clues(PICTURES[7], ["wrong"], draw, number)["conversations"][1]["value"]
        .split("\n")[0]
        .split()
    ]

    assert set(told) == {"animal", "mammal", "7", "wrong"}
    assert told.count("wrong") / len(told) == pytest.approx(records.CLUE_NOISE, abs=0.03)


def test_a_sheet_names_its_pictures_in_reading_order() -> None:
    record, chosen, columns = records.sheet(PICTURES, random.Random(3), 5)

    assert record["conversations"][-1]["value"].split("\n") == [picture.caption for picture in chosen]
    assert (record["width"] // 112, record["height"] // 112) == (columns, len(chosen) // columns)


def test_each_question_offers_the_true_caption_once_among_twenty() -> None:
    asked = list(records.questions(PICTURES, 42))

    assert [question["answer"] for question in asked] == [picture.caption for picture in PICTURES]
    for question in asked:
        assert len(set(question["choices"])) == len(question["choices"]) == 20
        assert question["answer"] in question["choices"]
        assert [turn["from"] for turn in question["conversations"]] == ["system", "human"]
    places = {question["choices"].index(question["answer"]) for question in asked}
    assert len(places) > 10, "the true caption must not always stand in the same place"
    assert asked == list(records.questions(PICTURES, 42))


def test_words_keep_apostrophes_and_hyphens() -> None:
    assert records.words(Picture("x", "man\u2019s shoe", "t-shirt kind")) == ["t-shirt", "kind", "man\u2019s", "shoe"]
    assert not re.search(r"[:,]", " ".join(records.words(Picture("x", "St. Kitts, Nevis", "flag"))))
