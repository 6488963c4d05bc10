"""Repetition in a text: the share of what was said before, and loops that a text ends in.

The report (section 4.3): a few thousand repetitive samples in stage 2 make a model answer in endless loops.
"""

import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

N = 10
"""Units of an n-gram; the released trainer's gate takes ten words as well."""

REPEATS = 3
"""Periods that make a loop: what is said twice is emphasis."""

SMALLEST = 12
"""Characters beyond the first period from which on something is a loop of characters: "hahaha" is none."""

LONGEST_WORD = 40
"""Characters. What is longer is no word ("hahaha...") and is looked at by characters, unless it is a URL."""

# Scripts without spaces between words: kana, Han, Thai, Lao, Tibetan, Myanmar, Khmer.
_SPACELESS = (
    "\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003134f"
)
_UNIT = re.compile(f"[{_SPACELESS}]|[^\\s{_SPACELESS}]+")
_PUNCTUATION = ".,;:!?()[]{}<>\"'`*_#|~-=+/\\…—\u2013\u2018\u2019“”、。，；：！？（）「」《》"  # noqa: RUF001


class Loop(NamedTuple):
    """The periodic end of a text. `redundant` counts the characters beyond the first period."""

    period: int
    repeats: float
    redundant: int


def ngram_repetition(text: str, n: int = N) -> float:
    """Distinct word n-grams that come more than once, over all word n-grams; words are separated by white space.

    The released trainer's metric, for comparison only: it rejects above 0.4, but a text that is nothing but one loop
    scores low, since all occurrences of an n-gram count once.
    """
    words = text.split()
    counts = Counter(tuple(words[start : start + n]) for start in range(len(words) - n + 1))
    return sum(count > 1 for count in counts.values()) / counts.total() if counts else 0.0


def repeated_share(text: str, n: int = N) -> float:
    """Share of a text's characters that lie in an n-gram which came before, 0..1. Linear time.

    Units are words, and characters in scripts without spaces; case and punctuation do not count. The first occurrence
    of what is repeated is not counted: a text given twice has 0.5.
    """
    units = _units(text)
    grams = list(zip(*(units[shift:] for shift in range(n)), strict=False))
    if len(set(grams)) == len(grams):
        return 0.0
    seen: set[tuple[str, ...]] = set()
    repeated = reach = 0
    for start, gram in enumerate(grams):
        if gram in seen:
            repeated += sum(map(len, units[max(start, reach) : start + n]))
            reach = start + n
        else:
            seen.add(gram)
    return repeated / sum(map(len, units))


def loop_at_end(text: str) -> Loop:
    """The loop that a text ends in, of any period, at least `REPEATS` times; the last time may be incomplete.

    Looked for among characters, among words (so that punctuation may vary), and among words without the last one,
    which a length limit may have cut. A text that is one loop as a whole ends in it, too. Linear time.
    """
    characters = " ".join(text.casefold().split())
    words = _units(text)
    loops = [_loop(words[end::-1]) for end in (-1, -2) if len(words) >= -end and words.count(words[end]) >= REPEATS]
    # What a loop ends with, it also has one period before: most texts need no closer look.
    if characters.find(characters[-SMALLEST:], 0, -1) >= 0:
        loops.append(_loop(characters[::-1]))
    return max(loops, key=lambda loop: loop.redundant, default=Loop(0, 0.0, 0))


def _loop(backwards: Sequence[str]) -> Loop:
    """The periodic beginning of a sequence with most redundancy, by the failure function of Knuth, Morris and Pratt."""
    border = [0] * (len(backwards) + 1)
    longest = best = 0
    for length in range(2, len(backwards) + 1):
        unit = backwards[length - 1]
        while longest and backwards[longest] != unit:
            longest = border[longest]
        longest += backwards[longest] == unit
        border[length] = longest
        if longest > border[best] and length >= REPEATS * (length - longest):
            best = length
    redundant = border[best]
    if not redundant:
        return Loop(0, 0.0, 0)
    period = best - redundant
    return Loop(period, best / period, sum(map(len, backwards[period:best])))


def _units(text: str) -> list[str]:
    units: list[str] = []
    for match in _UNIT.findall(text.casefold()):
        word = match.strip(_PUNCTUATION)
        if len(word) > LONGEST_WORD and "://" not in word:
            units.extend(word)
        elif word:
            units.append(word)
    return units
