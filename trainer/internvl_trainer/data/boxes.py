"""Grounding boxes in the text of conversations: `<ref>name</ref><box>[[x1, y1, x2, y2], ...]</box>`.

Coordinates are thousandths of the image's width and height, as integers of 0..1000 with x1 <= x2 and y1 <= y2; several
boxes of one name share a tag. Boxes are text: the model learns them as it learns any other answer. Source: the format
of InternVL's grounding data.

What is refused, and what is only reported: the data that the released models were trained on holds boxes that leave
the range, have decimals, are turned around, or are points and polygons, and the released trainer reads none of them.
So training takes them, and `internvl data check` reports them. A coordinate that is no finite number (`NaN`, `None`,
`inf`) can only come from a fault in whatever made the data; a sample with one is refused. Words in the box of a human
turn are left alone, since questions quote the format ("answer as <box>[[x1, y1, x2, y2]]</box>"); in an answer, which
is learned, they are refused.
"""

import math
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from internvl_trainer.data.errors import MalformedBoxError
from internvl_trainer.data.records import Record, Role

SCALE = 1000
"""What a coordinate at the right or lower edge is."""

_BOX = re.compile(r"<box>(.*?)(</box>|(?=<box>)|\Z)", re.DOTALL)
_WELL_FORMED = re.compile(r"\s*\[\s*\[[^\[\]]*\](?:\s*,\s*\[[^\[\]]*\])*\s*\]\s*")
_ONE = re.compile(r"\[([^\[\]]*)\]")
_SEPARATORS = re.compile(r"[\s,;()\[\]{}]+")
_INTEGER = re.compile(r"[0-9]{1,4}")
_NO_VALUE = re.compile(r"[+-]?(nan|inf|infinity|none|null|undefined)", re.IGNORECASE)
_SHOWN = 80


class BoxFault(NamedTuple):
    """Something wrong with one box."""

    text: str
    """The box as written, cut to fit a message."""
    problem: str
    refused: bool
    """Whether training refuses the sample; else it is odd, and trained on."""


def faults(text: str, role: Role) -> list[BoxFault]:
    """What is wrong with the boxes of one turn, in their order; nothing for a text without `<box>`."""
    if "<box>" not in text:
        return []
    return [fault for match in _BOX.finditer(text) if (fault := _fault(match, role)) is not None]


def check(record: Record) -> None:
    """Refuse a sample with a box that nobody can have meant.

    Raises:
        MalformedBoxError: names the turn and the first such box.
    """
    for position, turn in enumerate(record.turns):
        for fault in faults(turn.text, turn.role):
            if fault.refused:
                raise MalformedBoxError(record.name, f"turn {position} has {fault.text}: {fault.problem}")


def oddities(record: Record) -> list[str]:
    """Boxes that training takes, but that are not as the format says; one sentence each, for a report."""
    return [
        f"turn {position} has {fault.text}: {fault.problem}"
        for position, turn in enumerate(record.turns)
        for fault in faults(turn.text, turn.role)
        if not fault.refused
    ]


def normalise_box(box: Sequence[float], width: float, height: float) -> tuple[int, int, int, int]:
    """A box in pixels as the format's integers.

    Args:
        box: (x1, y1, x2, y2), left, top, right and lower edge in pixels.
        width, height: of the image, in pixels.

    Returns:
        round(1000 * x / width) and round(1000 * y / height), halves to the even neighbour, as Python rounds.

    Raises:
        ValueError: not four finite numbers, edges in the wrong order, or outside the image.
    """
    if len(box) != 4 or not all(math.isfinite(edge) for edge in (*box, width, height)):
        raise ValueError(f"box {list(box)} in an image of {width} x {height} px: must be four finite numbers")
    x1, y1, x2, y2 = box
    if not (0 <= x1 <= x2 <= width and 0 <= y1 <= y2 <= height and width > 0 and height > 0):
        raise ValueError(
            f"box {list(box)} in an image of {width} x {height} px: must be x1 <= x2 and y1 <= y2 within the image"
        )
    return (
        round(SCALE * x1 / width), round(SCALE * y1 / height), round(SCALE * x2 / width), round(SCALE * y2 / height)
    )  # fmt: skip


def grounded(name: str, boxes: Iterable[Sequence[int]]) -> str:
    """The text of a name and its normalised boxes."""
    listed = ", ".join(f"[{', '.join(str(edge) for edge in box)}]" for box in boxes)
    return f"<ref>{name}</ref><box>[{listed}]</box>"


def _fault(match: re.Match[str], role: Role) -> BoxFault | None:
    content, end = match.groups()
    written = match.group() if len(match.group()) <= _SHOWN else f"{match.group()[:_SHOWN]}..."
    words = [word for word in _SEPARATORS.split(content) if word] if end else []
    strange = [word for word in words if not _is_number(word)]
    if unmeant := next((word for word in strange if _NO_VALUE.fullmatch(word) or role == "gpt"), None):
        return BoxFault(written, f"{unmeant!r} is no finite number; correct it or leave the box out", True)
    problem = "</box> is missing" if not end else f"{strange[0]!r} is no number" if strange else _oddity(content)
    return None if problem is None else BoxFault(written, problem, False)


def _is_number(word: str) -> bool:
    try:
        return math.isfinite(float(word))
    except ValueError:
        return False


def _oddity(content: str) -> str | None:
    """Why numbers are no boxes as the format has them; None if they are."""
    if not _WELL_FORMED.fullmatch(content):
        return "not written as [[x1, y1, x2, y2], ...]"
    for one in _ONE.findall(content):
        edges = [edge.strip() for edge in one.split(",")]
        if len(edges) != 4:
            return f"{len(edges)} numbers where a box has 4"
        if not all(_INTEGER.fullmatch(edge) and int(edge) <= SCALE for edge in edges):
            return f"coordinates must be integers of 0..{SCALE}"
        x1, y1, x2, y2 = map(int, edges)
        if x1 > x2 or y1 > y2:
            return "edges are in the wrong order: x1 <= x2 and y1 <= y2"
    return None
