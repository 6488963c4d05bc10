"""What is said of a model from its verdicts."""

import io

import pytest
from rich.console import Console

from hack.demo.verdicts import Verdict, by_chance, captions_table, hits, summary

pytestmark = pytest.mark.unit

VERDICTS = (
    [Verdict("face: a", "face: b", 0, 20)] * 3 + [Verdict("face: c", None, 4, 20)] * 2 + [Verdict("x", "", 19, 20)] * 5
)


def test_hits_are_counted_against_what_guessing_would_hit() -> None:
    assert hits(VERDICTS, 1) == (3, pytest.approx(0.5))
    assert hits(VERDICTS, 5) == (5, pytest.approx(2.5))


def test_the_chance_of_doing_as_well_by_guessing_is_the_binomial_tail() -> None:
    assert by_chance(0, 10, 0.05) == pytest.approx(1)
    assert by_chance(10, 10, 0.5) == pytest.approx(0.5**10)
    assert by_chance(1, 2, 0.5) == pytest.approx(0.75)


def test_the_summary_says_share_chance_and_significance() -> None:
    text = summary(VERDICTS)

    assert "of 20 captions, the true one of 10 held-out pictures ranks first for 30.0% (chance 5%;" in text
    assert "among the first 5 for 50.0% (chance 25%;" in text


def test_the_table_shows_the_pictures_that_the_model_spoke_of() -> None:
    console = Console(file=io.StringIO(), record=True, width=100)
    console.print(captions_table(VERDICTS))
    shown = console.export_text()

    assert shown.count("face: b") == 3
    assert "face: c" not in shown
    assert shown.count("(nothing)") == 5, "silence is an answer too, and shown as one"
