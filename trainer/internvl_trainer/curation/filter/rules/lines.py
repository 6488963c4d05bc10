"""Lines and answers that come again."""

from collections import Counter
from collections.abc import Sequence

from internvl_trainer.curation.filter.rules.rule import Measured, answers, excerpt, largest
from internvl_trainer.data.records import Turn

SUBSTANTIAL_LINE = 10
"""Characters from which on a line counts: closing brackets and `else:` repeat in any program."""

SUBSTANTIAL_ANSWER = 40
"""Characters from which on an answer counts: Yes, No and numbers repeat in any list of questions."""


def duplicate_lines(turns: Sequence[Turn]) -> Measured:
    """Share of an answer's characters that stand in lines which were there before."""
    return largest([_duplicates(text) for text in answers(turns)])


def _duplicates(text: str) -> Measured:
    counts = Counter(line for line in map(str.strip, text.splitlines()) if line)
    total = sum(len(line) * count for line, count in counts.items())
    again = {line: len(line) * (count - 1) for line, count in counts.items() if len(line) >= SUBSTANTIAL_LINE}
    if not any(again.values()):
        return Measured(0.0, "")
    worst = max(again, key=again.__getitem__)
    return Measured(sum(again.values()) / total, f"{counts[worst]} times {excerpt(worst)}")


def repeated_answers(turns: Sequence[Turn]) -> Measured:
    """How often the most frequent substantial answer of a conversation is given."""
    counts = Counter(text.strip() for text in answers(turns))
    return largest([Measured(count, excerpt(text)) for text, count in counts.items() if len(text) > SUBSTANTIAL_ANSWER])
