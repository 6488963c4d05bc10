"""One line of InternVL's conversation JSONL, checked and typed. Pure: bytes in, `Record` out."""

import json
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Literal, NamedTuple

from internvl_trainer.data.errors import MalformedRecordError, VideoNotSupportedError

Role = Literal["system", "human", "gpt"]


class Kind(IntEnum):
    """What a sample consists of. The numbers are those of an index."""

    TEXT = 0
    SINGLE_IMAGE = 1
    MULTI_IMAGE = 2
    VIDEO = 3


class Turn(NamedTuple):
    """One turn of a conversation, with `<image>` placeholders as written."""

    role: Role
    text: str


@dataclass(frozen=True, slots=True)
class Record:
    """One sample: a conversation and the images it speaks of, in order.

    `sizes` are (width, height) in pixels, one for each image; None where the line does not give them.
    """

    name: str
    turns: tuple[Turn, ...]
    images: tuple[str, ...] = ()
    sizes: tuple[tuple[int, int], ...] | None = None

    @property
    def kind(self) -> Kind:
        """By the number of its images."""
        return Kind(min(len(self.images), 2))


def parse_record(line: bytes, *, source: str, line_number: int) -> Record:
    """Read one JSONL line.

    `image` may be a path, a list of paths, empty or absent; `width` and `height` a number or a list to match.
    The record's name is `<source>:<id>`, with the line's number for an id that is absent.

    Raises:
        MalformedRecordError: not JSON, no conversation, an unknown role, sizes that do not match the images.
        VideoNotSupportedError: the record has a `video`.
    """
    name = f"{source}:line {line_number}"
    try:
        fields = json.loads(line)
    except ValueError as error:
        raise MalformedRecordError(name, f"not valid JSON ({error})") from error
    if not isinstance(fields, dict):
        raise MalformedRecordError(name, f"a JSON {type(fields).__name__}, not an object")
    if (given := fields.get("id")) is not None:
        name = f"{source}:{given}"
    if fields.get("video"):
        raise VideoNotSupportedError(name, f"video {fields['video']!r}: video samples are not supported yet")
    images = _images(name, fields.get("image"))
    return Record(name, _turns(name, fields.get("conversations")), images, _sizes(name, fields, len(images)))


def _turns(name: str, given: Any) -> tuple[Turn, ...]:
    if not isinstance(given, list) or not given:
        raise MalformedRecordError(name, "field 'conversations' must be a non-empty list of turns")
    turns = []
    for position, entry in enumerate(given):
        role, text = (entry.get("from"), entry.get("value")) if isinstance(entry, dict) else (None, None)
        if not isinstance(text, str) or role not in ("human", "gpt", "system"):
            raise MalformedRecordError(
                name, f"turn {position} must have 'from' (human, gpt or system; is {role!r}) and a text 'value'"
            )
        if role == "system" and position:
            raise MalformedRecordError(name, f"turn {position} is a system turn; only the first one may be")
        turns.append(Turn(role, text))
    return tuple(turns)


def _images(name: str, given: Any) -> tuple[str, ...]:
    paths = [] if given is None or given == "" else [given] if isinstance(given, str) else given
    if not isinstance(paths, list) or not all(isinstance(path, str) and path for path in paths):
        raise MalformedRecordError(name, f"field 'image' must be a path or a list of paths; is {given!r}")
    return tuple(paths)


def _sizes(name: str, fields: dict[str, Any], images: int) -> tuple[tuple[int, int], ...] | None:
    given = [fields.get("width"), fields.get("height")]
    if not images or given == [None, None]:
        return None
    widths, heights = (side if isinstance(side, list) else [side] for side in given)
    numbers = all(isinstance(side, int) and side > 0 for side in widths + heights)
    if not (len(widths) == len(heights) == images and numbers):
        raise MalformedRecordError(
            name, f"{images} images, but width {given[0]!r} and height {given[1]!r}; give one positive size for each"
        )
    return tuple(zip(widths, heights, strict=True))
