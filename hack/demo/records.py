"""The demo's conversations: pure functions from pictures to InternVL's JSONL records. Nothing here draws or writes."""

import random
from collections.abc import Iterator, Sequence
from typing import Any

from hack.demo.pictures import CELL, Picture

Record = dict[str, Any]

SYSTEM = "You name pictures."
QUESTION = "Name it."
QUESTION_MANY = "Name them."
QUESTION_TEXT = "Name a picture."
QUESTION_KIND = "Which kind?"

VARIANTS = 3
"""Renderings of each picture in training."""

GRIDS = ((2, 1), (1, 2), (3, 1), (1, 3), (2, 2), (3, 2), (2, 3))
"""Columns and rows of the contact sheets; each is cut into as many tiles, and a thumbnail."""


def image_path(picture: Picture, variant: int) -> str:
    """Where one rendering lies below the data set's root."""
    return f"pictures/{picture.key}-{variant}.png"


def _conversation(*turns: str) -> list[dict[str, str]]:
    roles = ("human", "gpt") * len(turns)
    spoken = [{"from": role, "value": text} for role, text in zip(roles, turns, strict=False)]
    return [{"from": "system", "value": SYSTEM}, *spoken]


def caption(picture: Picture, variant: int) -> Record:
    """One picture and its name."""
    return {
        "id": f"{picture.key}-{variant}",
        "image": image_path(picture, variant),
        "width": CELL,
        "height": CELL,
        "conversations": _conversation(f"<image>\n{QUESTION}", picture.name),
    }


def question(picture: Picture, choices: Sequence[str]) -> Record:
    """A held-out picture as an open question, with the names to choose among. The true one is `answer`."""
    record = caption(picture, 0)
    turns = [turn for turn in record["conversations"] if turn["from"] != "gpt"]
    return record | {"conversations": turns, "answer": picture.name, "choices": list(choices)}


def name_and_kind(picture: Picture, variant: int) -> Record:
    """Two turns on one picture: its name, then its group."""
    turns = _conversation(f"<image>\n{QUESTION}", picture.name, QUESTION_KIND, picture.group)
    return caption(picture, variant) | {"id": f"{picture.key}-{variant}-kind", "conversations": turns}


def spoken_name(picture: Picture) -> Record:
    """A name without a picture, for the language model's own training."""
    return {"id": picture.key, "conversations": _conversation(QUESTION_TEXT, picture.name)}


def spoken_kind(picture: Picture) -> Record:
    """The group of a name, without a picture."""
    turns = _conversation(f"{QUESTION_KIND} {picture.name}", picture.group)
    return {"id": f"{picture.key}-kind", "conversations": turns}


def several(pictures: Sequence[Picture], draw: random.Random, number: int) -> Record:
    """Two to four single pictures in one conversation, each with a label."""
    chosen = draw.sample(pictures, draw.randint(2, 4))
    marks = "\n".join(f"Image-{place}: <image>" for place in range(1, len(chosen) + 1))
    names = "\n".join(f"Image-{place}: {picture.name}" for place, picture in enumerate(chosen, start=1))
    return {
        "id": f"several-{number}",
        "image": [image_path(picture, draw.randrange(VARIANTS)) for picture in chosen],
        "width": [CELL] * len(chosen),
        "height": [CELL] * len(chosen),
        "conversations": _conversation(f"{marks}\n{QUESTION_MANY}", names),
    }


def sheet(pictures: Sequence[Picture], draw: random.Random, number: int) -> tuple[Record, list[Picture], int]:
    """A contact sheet: its record, the pictures on it in reading order, and its number of columns."""
    columns, rows = draw.choice(GRIDS)
    chosen = draw.sample(pictures, columns * rows)
    names = "\n".join(picture.name for picture in chosen)
    record = {
        "id": f"sheet-{number}",
        "image": f"sheets/{number}.png",
        "width": columns * CELL,
        "height": rows * CELL,
        "conversations": _conversation(f"<image>\n{QUESTION_MANY}", names),
    }
    return record, chosen, columns


def questions(held_out: Sequence[Picture], seed: int, *, choices: int = 20) -> Iterator[Record]:
    """One question for each held-out picture: its own name among `choices` held-out names, in seeded order."""
    for picture in held_out:
        draw = random.Random(f"{seed}/question/{picture.key}")
        others = [other.name for other in held_out if other.name != picture.name]
        names = [picture.name, *draw.sample(others, min(choices - 1, len(others)))]
        draw.shuffle(names)
        yield question(picture, names)
