"""The heuristic rules, as one table. Adding a rule is adding a measure and a row."""

from collections.abc import Sequence

from internvl_trainer.curation.filter import repetition
from internvl_trainer.curation.filter.rules import characters, lengths, lines, links, runs
from internvl_trainer.curation.filter.rules.rule import Finding, Measured, Rule, answers, excerpt, largest
from internvl_trainer.data.records import Turn

__all__ = ["BY_NAME", "RULES", "Finding", "Measured", "Rule"]


def _repeated_text(turns: Sequence[Turn]) -> Measured:
    shares = [(repetition.repeated_share(text), text) for text in answers(turns)]
    return largest([Measured(share, excerpt(text[-160:])) for share, text in shares if share])


def _endless_loop(turns: Sequence[Turn]) -> Measured:
    loops = [(repetition.loop_at_end(text), text) for text in answers(turns)]
    return largest(
        [Measured(loop.redundant, f"{loop.repeats:.1f} times {excerpt(text[-80:])}") for loop, text in loops]
    )


RULES: tuple[Rule, ...] = (
    Rule("sentence-length", "longest sentence of an answer", "characters", 2000, lengths.longest_sentence),
    Rule("short-answer", "shortest answer; no answer counts as 0", "characters", 1, lengths.shortest_answer, True),
    Rule("long-answer", "longest answer", "characters", 60_000, lengths.longest_answer),
    Rule("zero-run", "zeros in a row, also with separators between them", "zeros", 64, runs.zeros),
    Rule("character-run", "longest run of one character", "characters", 128, runs.one_character),
    Rule("symbols", "characters of an answer that are neither letters nor digits", "share", 0.6, characters.symbols),
    Rule("garbled", "characters left by a wrong decoding", "share", 0.005, characters.garbled),
    Rule("repeated-links", "most frequent URL or e-mail address of an answer", "times", 5, links.repeated_addresses),
    Rule(
        "duplicate-lines",
        "part of an answer in lines that it has already had",
        "share",
        0.3,
        lines.duplicate_lines,
        is_repetition=True,
    ),
    Rule(
        "repeated-answers",
        "most frequent answer of a conversation, of those above 40 characters",
        "times",
        2,
        lines.repeated_answers,
        is_repetition=True,
    ),
    Rule(
        "repeated-text",
        "part of an answer in ten words (characters where a script has no spaces) that it has already had",
        "share",
        0.3,
        _repeated_text,
        is_repetition=True,
    ),
    Rule(
        "endless-loop",
        "end of an answer that repeats three times or more, without the first time",
        "characters",
        100,
        _endless_loop,
        is_repetition=True,
    ),
)
"""All rules, with default limits that were measured on tests/unit/trainer/curation/filter/samples.py."""

BY_NAME = {rule.name: rule for rule in RULES}
