"""What filtering did, counted: by data set and by rule."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from internvl_trainer.curation.filter.examine import Fate, Flag
from internvl_trainer.curation.filter.policy import MALFORMED, QUALITY_SCORE, REPETITION_SCORE
from internvl_trainer.curation.filter.rules import BY_NAME

EXAMPLES = 3
DECIDED = "decided"
"""In the place of a rule: what a person said."""

CHECKS = (MALFORMED, *BY_NAME, QUALITY_SCORE, REPETITION_SCORE)


@dataclass
class RuleTally:
    """What became of the samples that one rule flagged; a sample counts with every rule that flags it."""

    flagged: int = 0
    removed: int = 0
    review: int = 0
    kept: int = 0
    examples: list[str] = field(default_factory=list)


@dataclass
class Tally:
    """One data set."""

    name: str
    annotation: str
    samples: int = 0
    blank_lines: int = 0
    fates: Counter[str] = field(default_factory=Counter)
    decided: Counter[str] = field(default_factory=Counter)
    rules: dict[str, RuleTally] = field(default_factory=dict)
    scores: dict[str, Counter[int]] = field(default_factory=dict)

    def count(self, line: int, flags: tuple[Flag, ...], fate: Fate, decision: str | None) -> None:
        """One sample."""
        self.samples += 1
        self.fates[fate] += 1
        if decision is not None:
            self.decided[decision] += 1
        for flag in flags:
            tally = self.rules.setdefault(flag.rule, RuleTally())
            tally.flagged += 1
            tally.removed += fate == Fate.REMOVED
            tally.review += fate == Fate.REVIEW
            tally.kept += fate == Fate.KEPT
            if len(tally.examples) < EXAMPLES:
                tally.examples.append(f"line {line}: {_measured(flag)}")

    def count_score(self, check: str, value: float) -> None:
        """One score of the language model, in a histogram of whole numbers."""
        self.scores.setdefault(check, Counter())[int(value)] += 1

    def as_json(self) -> dict[str, Any]:
        """The stable form of report.json."""
        rules = {
            name: {
                "flagged": tally.flagged,
                "removed": tally.removed,
                "review": tally.review,
                "kept": tally.kept,
                "share": round(tally.flagged / self.samples, 6),
                "examples": tally.examples,
            }
            for name in CHECKS
            if (tally := self.rules.get(name))
        }
        return {
            "annotation": self.annotation,
            "samples": self.samples,
            "kept": self.fates[Fate.KEPT],
            "removed": self.fates[Fate.REMOVED],
            "review": self.fates[Fate.REVIEW],
            "decided": {"keep": self.decided["keep"], "remove": self.decided["remove"]},
            "blankLines": self.blank_lines,
            "rules": rules,
            "scores": {
                check: {str(score): counts[score] for score in range(11)} for check, counts in self.scores.items()
            },
        }


def document(tallies: list[Tally], policy: dict[str, Any], usage: dict[str, Any] | None) -> dict[str, Any]:
    """report.json: totals, data sets, and the policy that was followed."""
    sources = {tally.name: tally.as_json() for tally in tallies}
    totals = {name: sum(each[name] for each in sources.values()) for name in ("samples", "kept", "removed", "review")}
    return {
        "format": "internvl-filter-report/v1",
        "totals": totals,
        "sources": sources,
        "judge": usage,
        "policy": policy,
    }


HEADINGS = ("SOURCE", "RULE", "SAMPLES", "FLAGGED", "SHARE", "REMOVED", "REVIEW", "KEPT", "EXAMPLE")


def rows(report: dict[str, Any]) -> list[tuple[str, ...]]:
    """The table of a report: for each data set its total, then its rules."""
    found: list[tuple[str, ...]] = []
    for name, source in report["sources"].items():
        samples, kept = source["samples"], source["kept"]
        flagged = samples - kept
        found.append(
            (
                name,
                "all",
                f"{samples:,}",
                f"{flagged:,}",
                _share(flagged, samples),
                f"{source['removed']:,}",
                f"{source['review']:,}",
                f"{kept:,}",
                "",
            )
        )
        for rule, counts in source["rules"].items():
            figures = (f"{counts[column]:,}" for column in ("removed", "review", "kept"))
            share = _share(counts["flagged"], samples)
            found.append(("", rule, "", f"{counts['flagged']:,}", share, *figures, counts["examples"][0]))
    return found


def markdown(report: dict[str, Any]) -> str:
    """report.md."""
    totals = report["totals"]
    head = (
        "# What `internvl data filter` did\n\n"
        f"{totals['samples']:,} samples: {totals['kept']:,} kept, {totals['removed']:,} removed (removed.jsonl), "
        f"{totals['review']:,} up to a person (review.jsonl).\n\n"
        "A sample counts with every rule that flags it. A heuristic finds what looks wrong, not what is wrong: look at "
        "what it flags before removing it.\n\n"
    )
    table = [HEADINGS, tuple("---" for _ in HEADINGS), *rows(report)]
    return head + "\n".join("| " + " | ".join(map(_cell, row)) + " |" for row in table) + "\n"


def _cell(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|")


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.2f} %" if whole else ""


def _measured(flag: Flag) -> str:
    if flag.value is None:
        return flag.detail
    return f"{flag.value:g} (limit {flag.limit:g}) {flag.detail}"
