"""One character, over and over."""

import re
from collections.abc import Sequence

from internvl_trainer.curation.filter.rules.rule import Measured, excerpt, largest
from internvl_trainer.data.records import Turn

_WIDE_ZERO = "\uff10"
_ZEROS = re.compile(rf"[0{_WIDE_ZERO}](?:[ ,.;|\t\n]{{0,2}}[0{_WIDE_ZERO}])+")
_RUN = re.compile(r"(.)\1{7,}", re.DOTALL)


def zeros(turns: Sequence[Turn]) -> Measured:
    """How many zeros follow one another, with at most two separators between neighbours: 0000, 0, 0, 0 or 0.0 0.0."""
    runs = [match.group() for turn in turns for match in _ZEROS.finditer(turn.text)]
    return largest([Measured(run.count("0") + run.count(_WIDE_ZERO), excerpt(run)) for run in runs])


def one_character(turns: Sequence[Turn]) -> Measured:
    """Length of the longest run of one character, white space included. Runs of fewer than eight count as none."""
    runs = [match.group() for turn in turns for match in _RUN.finditer(turn.text)]
    return largest([Measured(len(run), f"{run[0]!r}") for run in runs])
