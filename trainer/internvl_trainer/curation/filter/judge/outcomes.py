"""What came of a question. An answer is read strictly: what is no score is never taken for one."""

import json
import math
import re
from typing import NamedTuple

_FENCE = re.compile(r"\A```(?:json)?\s*\n(.*)\n\s*```\Z", re.DOTALL)
_THOUGHTS = re.compile(r"\A\s*<think>.*?</think>", re.DOTALL)
SHOWN = 120


class Score(NamedTuple):
    """What a judge decided, 0..10, and its reason."""

    value: float
    reason: str


class Unreadable(NamedTuple):
    """The judge answered, however often it was asked, but not with a score."""

    reason: str


class Rejected(NamedTuple):
    """The endpoint refused this one request, for instance since it is too long, or answered with no completion."""

    reason: str


type Outcome = Score | Unreadable | Rejected


def read_answer(text: str) -> Score | Unreadable:
    """The score of an answer: one JSON object, bare or in a code fence, after thoughts in <think> if there are any.

    `score` must be a number from 0 to 10; `reason` a text, if it is given; other fields do not matter.
    """
    answer = _THOUGHTS.sub("", text, count=1).strip()
    if fenced := _FENCE.match(answer):
        answer = fenced.group(1)
    try:
        fields = json.loads(answer)
    except (ValueError, RecursionError):
        return Unreadable(f"the answer is no JSON: {_clipped(text)}")
    if not isinstance(fields, dict) or "score" not in fields:
        return Unreadable(f"the answer is no JSON object with a score: {_clipped(text)}")
    score, reason = fields["score"], fields.get("reason", "")
    if (
        isinstance(score, bool)
        or not isinstance(score, int | float)
        or not math.isfinite(score)
        or not 0 <= score <= 10
    ):
        return Unreadable(f"the score is {_clipped(repr(score))}, not a number from 0 to 10")
    return Score(float(score), reason if isinstance(reason, str) else "")


def _clipped(text: str) -> str:
    line = " ".join(text.split())
    return repr(line if len(line) <= SHOWN else f"{line[: SHOWN - 3]}...")
