"""One line of InternVL's conversation JSONL, checked and typed. Pure: bytes in, `Record` out."""

import json
import math
import re
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Literal, NamedTuple

from pydantic_core import from_json

from internvl_trainer.data.errors import MalformedRecordError, VideoNotSupportedError

Role = Literal["system", "human", "gpt"]

LONGEST_LINE = 64 * 1024 * 1024
"""Bytes of the longest line that is parsed; more is no record, but a file of another kind."""

LARGEST_SIDE = 2**31 - 1
"""Pixels of the largest width or height that a record may state: image formats have no larger ones."""

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_LONE_SURROGATE = re.compile(
    rb"\\u[dD](?:[89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB]..\\u[dD])[c-fC-F])"
)
_SHOWN = 120
"""Characters of a value that a message quotes."""


class Kind(IntEnum):
    """What a sample consists of. The numbers are those of an index."""

    TEXT = 0
    SINGLE_IMAGE = 1
    MULTI_IMAGE = 2
    VIDEO = 3


class Turn(NamedTuple):
    """One turn of a conversation, with `<image>` and `<video>` placeholders as written."""

    role: Role
    text: str


@dataclass(frozen=True, slots=True)
class Record:
    """One sample: a conversation and the images, in order, or the video that it speaks of.

    `sizes` are (width, height) in pixels, one for each image; None where the line does not give them. `clip` is the
    part of the video that counts, as seconds (start, end); None for all of it.
    """

    name: str
    turns: tuple[Turn, ...]
    images: tuple[str, ...] = ()
    sizes: tuple[tuple[int, int], ...] | None = None
    video: str | None = None
    clip: tuple[float, float] | None = None

    @property
    def kind(self) -> Kind:
        """By what it has besides text."""
        return Kind.VIDEO if self.video is not None else Kind(min(len(self.images), 2))


def sample_name(source: str, annotation: str, line_number: int, given_id: Any = None) -> str:
    """How messages name a sample: `<source>:<id> (<file> line <n>)`, `<source>:line <n> (<file>)` without an id.

    Args:
        source: name of the data set.
        annotation: URI or path of its JSONL; its last part is the file's name. Empty where there is no file.
        line_number: 1-based.
        given_id: the record's `id`; a string, a number or a boolean counts as one.
    """
    file = annotation.rpartition("/")[2]
    if isinstance(given_id, str | int | float):
        place = f"{file} line {line_number}" if file else f"line {line_number}"
        return f"{source}:{_short(str(given_id))} ({place})"
    return f"{source}:line {line_number} ({file})" if file else f"{source}:line {line_number}"


def id_of(line: bytes | None) -> Any:
    """The `id` that a line gives, also one that is no record; None where it has none, or is no JSON object.

    More is read than `parse_record` takes (half surrogate pairs, for one): a bad sample is to be told by its id.
    """
    try:
        fields = json.loads(line or b"")
    except (ValueError, RecursionError):
        return None
    return fields.get("id") if isinstance(fields, dict) else None


def parse_record(line: bytes, *, source: str, line_number: int, annotation: str = "") -> Record:
    """Read one JSONL line. Fields that are not listed here are not looked at, whatever they hold.

    `id` any JSON scalar; `conversations` turns of `human` and `gpt`, after an optional `system` turn; `image` a path, a
    list of paths, empty or absent; `width` and `height` a number or a list to match; `video` a path, or a folder of
    frames if it ends with "/"; `clip` [start, end] in seconds of the video.

    Args:
        line: the bytes, with or without the newline.
        source, line_number, annotation: see `sample_name`.

    Raises:
        MalformedRecordError: too long, not UTF-8, not JSON, no conversation, an unknown role, text or a path that is no
            Unicode (lone surrogates), sizes that do not match the images, a clip that is no span of time.
        VideoNotSupportedError: several videos, or images beside a video.
    """
    fields = _fields(line, sample_name(source, annotation, line_number))
    name = sample_name(source, annotation, line_number, fields.get("id"))
    turns = _turns(name, fields.get("conversations"))
    images = _images(name, fields.get("image"))
    video = fields.get("video")
    if not video:
        return Record(name, turns, images, _sizes(name, fields, len(images)) if images else None)
    if images or not isinstance(video, str):
        raise VideoNotSupportedError(
            name,
            f"video {_short(repr(video))}{f' beside {len(images)} images' if images else ''}: a sample has one video "
            "(one path, or one folder of frames), or images; split it",
        )
    return Record(name, turns, video=_path(name, "video", video), clip=_clip(name, fields.get("clip")))


def _fields(line: bytes, name: str) -> dict[str, Any]:
    if len(line) > LONGEST_LINE:
        raise MalformedRecordError(
            name,
            f"the line has {len(line):,} bytes, and a record at most {LONGEST_LINE:,}; "
            "the file may not be JSONL, with one record a line",
        )
    try:
        # Three times as fast as json.loads on English text, and stricter: UTF-8 alone, no lone surrogates.
        fields = from_json(line.removeprefix(_BYTE_ORDER_MARK))
    except ValueError as error:
        raise MalformedRecordError(name, _why_not_json(line, error)) from error
    if not isinstance(fields, dict):
        raise MalformedRecordError(name, f"a JSON {type(fields).__name__}, not an object")
    return fields


def _why_not_json(line: bytes, error: ValueError) -> str:
    try:
        line.decode()
    except UnicodeDecodeError as undecodable:
        return f"not UTF-8 ({undecodable.reason} at byte {undecodable.start}); JSONL must be, convert the file"
    if _LONE_SURROGATE.search(line):
        return f"not valid Unicode: an escape \\ud800..\\udfff stands without its other half ({error})"
    return f"not valid JSON ({error})"


def _turns(name: str, given: Any) -> tuple[Turn, ...]:
    if not isinstance(given, list) or not given:
        raise MalformedRecordError(name, "field 'conversations' must be a non-empty list of turns")
    turns = []
    for position, entry in enumerate(given):
        role, text = (entry.get("from"), entry.get("value")) if isinstance(entry, dict) else (None, None)
        if not isinstance(text, str) or role not in ("human", "gpt", "system"):
            raise MalformedRecordError(
                name,
                f"turn {position} must have 'from' (human, gpt or system; is {_short(repr(role))}) and a text 'value'",
            )
        if role == "system" and position:
            raise MalformedRecordError(name, f"turn {position} is a system turn; only the first one may be")
        turns.append(Turn(role, text))
    return tuple(turns)


def _images(name: str, given: Any) -> tuple[str, ...]:
    paths = [] if given is None or given == "" else [given] if isinstance(given, str) else given
    if not isinstance(paths, list) or not all(isinstance(path, str) and path for path in paths):
        raise MalformedRecordError(name, f"field 'image' must be a path or a list of paths; is {_short(repr(given))}")
    return tuple(_path(name, "image", path) for path in paths)


def _path(name: str, field: str, given: str) -> str:
    if "\0" in given:
        raise MalformedRecordError(name, f"field {field!r} is {_short(repr(given))}: no path has a zero character")
    return given


def _sizes(name: str, fields: dict[str, Any], images: int) -> tuple[tuple[int, int], ...] | None:
    given = [fields.get("width"), fields.get("height")]
    if given == [None, None]:
        return None
    widths, heights = ([_pixels(side) for side in (both if isinstance(both, list) else [both])] for both in given)
    sizes = tuple((w, h) for w, h in zip(widths, heights, strict=False) if w is not None and h is not None)
    if not (len(widths) == len(heights) == images == len(sizes)):
        raise MalformedRecordError(
            name,
            f"{images} images, but width {_short(repr(given[0]))} and height {_short(repr(given[1]))}; "
            f"give one size of 1..{LARGEST_SIDE} pixels for each",
        )
    return sizes


def _pixels(given: Any) -> int | None:
    """A width or height; None for whatever is none. Spreadsheets and data frames write 640 as 640.0."""
    if isinstance(given, bool) or not isinstance(given, int | float):
        return None
    return int(given) if 1 <= given <= LARGEST_SIDE and given == int(given) else None


def _clip(name: str, given: Any) -> tuple[float, float] | None:
    if given is None or given == []:
        return None
    numbers = given if isinstance(given, list) else []
    if len(numbers) == 2 and all(isinstance(n, int | float) and not isinstance(n, bool) for n in numbers):
        start, end = (float(n) if abs(n) < _FOREVER else math.inf for n in numbers)
        if 0 <= start < end < math.inf:
            return start, end
    raise MalformedRecordError(
        name, f"field 'clip' must be [start, end] in seconds, 0 <= start < end; is {_short(repr(given))}"
    )


_FOREVER = 1e9
"""Seconds; no video is that long, and its frames can be counted in integers."""


def _short(text: str) -> str:
    """Fit for one line of a log: without control characters, and cut."""
    text = text if text.isprintable() else text.encode("unicode_escape").decode("ascii")
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
