"""What is said of a model from its answers to the held-out questions. Pure, and quick to import."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table

TOP = 5


@dataclass(frozen=True)
class Verdict:
    """One held-out picture: its caption, what the model says of it, and its rank among the choices, from 0.

    `answer` is None where the model was not asked to speak, and empty where it said nothing.
    """

    caption: str
    answer: str | None
    rank: int
    choices: int


def hits(verdicts: Sequence[Verdict], top: int) -> tuple[int, float]:
    """How many true captions are among the first `top`, and how many would be by chance, on average."""
    return sum(one.rank < top for one in verdicts), sum(top / one.choices for one in verdicts)


def by_chance(successes: int, trials: int, probability: float) -> float:
    """The probability that guessing would do at least as well: the binomial's upper tail."""
    return sum(
        math.comb(trials, k) * probability**k * (1 - probability) ** (trials - k) for k in range(successes, trials + 1)
    )


def summary(verdicts: Sequence[Verdict]) -> str:
    """The result in one sentence."""
    choices = max(one.choices for one in verdicts)
    parts = []
    for top, words in ((1, "first"), (TOP, f"among the first {TOP}")):
        count, expected = hits(verdicts, top)
        tail = by_chance(count, len(verdicts), top / choices)
        parts.append(
            f"{words} for {count / len(verdicts):.1%} (chance {expected / len(verdicts):.0%}; "
            f"guessing does as well with probability {tail:.1g})"
        )
    return f"of {choices} captions, the true one of {len(verdicts)} held-out pictures ranks " + ", ".join(parts)


def captions_table(verdicts: Sequence[Verdict]) -> Table:
    """Some held-out pictures with their true caption, what the model says, and where the true caption ranks."""
    table = Table(title="Pictures held out of training", title_justify="left")
    table.add_column("CAPTION")
    table.add_column("THE MODEL SAYS")
    table.add_column("RANK", justify="right", no_wrap=True)
    for one in verdicts:
        if one.answer is not None:
            table.add_row(one.caption, one.answer or "(nothing)", f"{one.rank + 1}/{one.choices}")
    return table
