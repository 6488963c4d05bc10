"""Lengths that no good answer has."""

import re
from collections.abc import Sequence

from internvl_trainer.curation.filter.rules.rule import Measured, answers, excerpt, largest
from internvl_trainer.data.records import Turn

# The second half is the full stop, exclamation mark, question mark and semicolon of Chinese.
_END = re.compile("(?<=[.!?])\\s+|[\u3002\uff01\uff1f\uff1b\n]+")


def longest_sentence(turns: Sequence[Turn]) -> Measured:
    """Characters of the longest sentence of an answer; a line's end also ends a sentence."""
    sentences = [sentence.strip() for text in answers(turns) for sentence in _END.split(text)]
    return largest([Measured(len(sentence), excerpt(sentence)) for sentence in sentences])


def shortest_answer(turns: Sequence[Turn]) -> Measured:
    """Characters of the shortest answer, white space at its ends not counted; 0 if there is no answer at all."""
    given = answers(turns)
    if not given:
        return Measured(0, "no answer")
    shortest = min((text.strip() for text in given), key=len)
    return Measured(len(shortest), excerpt(shortest) or "empty answer")


def longest_answer(turns: Sequence[Turn]) -> Measured:
    """Characters of the longest answer."""
    return largest([Measured(len(text), excerpt(text)) for text in answers(turns)])
