"""The demo's conversations: pure functions from pictures to InternVL's JSONL records. Nothing here draws or writes."""

import random
import re
from collections.abc import Iterator, Sequence
from typing import Any

from hack.demo.pictures import CELL, Picture

Record = dict[str, Any]

SYSTEM = "You name pictures."
QUESTION = "Name it."
QUESTION_KIND = "Which kind?"
QUESTION_MANY = "Name them."

VARIANTS = 3
"""Renderings of each picture in training."""

GRIDS = ((2, 1), (1, 2), (3, 1), (1, 3), (2, 2), (3, 2), (2, 3))
"""Columns and rows of the contact sheets; each is cut into as many tiles, and a thumbnail."""

CLUE_NOISE = 0.15
"""Share of the clues that are words of something else."""

KIND_SHARE = 0.25
"""Share of the questions about clues that ask for the kind alone."""


def image_path(picture: Picture, variant: int) -> str:
    """Where one rendering lies below the data set's root."""
    return f"pictures/{picture.key}-{variant}.png"


def caption(picture: Picture, variant: int) -> Record:
    """One picture and its caption."""
    return {
        "id": f"{picture.key}-{variant}",
        "image": image_path(picture, variant),
        "width": CELL,
        "height": CELL,
        "conversations": _conversation(f"<image>\n{QUESTION}", picture.caption),
    }


def kind(picture: Picture, variant: int) -> Record:
    """One picture and what kind of thing it shows."""
    turns = _conversation(f"<image>\n{QUESTION_KIND}", picture.kind)
    return caption(picture, variant) | {"id": f"{picture.key}-{variant}-kind", "conversations": turns}


def clues(picture: Picture, vocabulary: Sequence[str], draw: random.Random, number: int) -> Record:
    """A caption, or its kind, to be told from some of its words, repeated, shuffled and mixed with a few wrong ones.

    This is how the language model learns, from text alone, to answer by the evidence that stands before the question:
    where the words stand here, visual tokens stand later.
    """
    own = words(picture)
    told = " ".join(draw.choice(vocabulary if draw.random() < CLUE_NOISE else own) for _ in range(draw.randint(6, 12)))
    asks_kind = draw.random() < KIND_SHARE
    asked, answer = (QUESTION_KIND, picture.kind) if asks_kind else (QUESTION, picture.caption)
    return {"id": f"{picture.key}-clues-{number}", "conversations": _conversation(f"{told}\n{asked}", answer)}


def words(picture: Picture) -> list[str]:
    """The words of a caption."""
    return re.findall(r"[\w\u2019'-]+", picture.caption)


def several(pictures: Sequence[Picture], draw: random.Random, number: int) -> Record:
    """Two to four single pictures in one conversation, each with a label."""
    chosen = draw.sample(pictures, draw.randint(2, 4))
    marks = "\n".join(f"Image-{place}: <image>" for place in range(1, len(chosen) + 1))
    captions = "\n".join(f"Image-{place}: {picture.caption}" for place, picture in enumerate(chosen, start=1))
    return {
        "id": f"several-{number}",
        "image": [image_path(picture, draw.randrange(VARIANTS)) for picture in chosen],
        "width": [CELL] * len(chosen),
        "height": [CELL] * len(chosen),
        "conversations": _conversation(f"{marks}\n{QUESTION_MANY}", captions),
    }


def sheet(pictures: Sequence[Picture], draw: random.Random, number: int) -> tuple[Record, list[Picture], int]:
    """A contact sheet: its record, the pictures on it in reading order, and its number of columns."""
    columns, rows = draw.choice(GRIDS)
    chosen = draw.sample(pictures, columns * rows)
    captions = "\n".join(picture.caption for picture in chosen)
    record = {
        "id": f"sheet-{number}",
        "image": f"sheets/{number}.png",
        "width": columns * CELL,
        "height": rows * CELL,
        "conversations": _conversation(f"<image>\n{QUESTION_MANY}", captions),
    }
    return record, chosen, columns


def questions(held_out: Sequence[Picture], seed: int, *, choices: int = 20) -> Iterator[Record]:
    """One question for each held-out picture: its caption among `choices` held-out captions, in seeded order.

    `answer` is the true caption, `choices` are all of them; the conversation ends with the question.
    """
    for picture in held_out:
        draw = random.Random(f"{seed}/question/{picture.key}")
        others = [other.caption for other in held_out if other.caption != picture.caption]
        offered = [picture.caption, *draw.sample(others, min(choices - 1, len(others)))]
        draw.shuffle(offered)
        record = caption(picture, 0)
        asked = [turn for turn in record["conversations"] if turn["from"] != "gpt"]
        yield record | {"conversations": asked, "answer": picture.caption, "choices": offered}


def _conversation(*turns: str) -> list[dict[str, str]]:
    roles = ("human", "gpt") * len(turns)
    spoken = [{"from": role, "value": text} for role, text in zip(roles, turns, strict=False)]
    return [{"from": "system", "value": SYSTEM}, *spoken]
