"""Loops are found whatever they consist of, and nothing else is taken for one."""

import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internvl_trainer.curation.filter.repetition import (
    REPEATS,
    SMALLEST,
    _loop,
    loop_at_end,
    ngram_repetition,
    repeated_share,
)
from tests.unit.trainer.curation.filter.samples import PROSE

pytestmark = pytest.mark.unit

GOLDEN = json.loads((Path(__file__).parents[4] / "golden" / "ngram_repetition.json").read_text())

letters = st.text("abcdefgh", min_size=1, max_size=60)
words = st.lists(st.text("abcdefghijklmnop", min_size=1, max_size=8), min_size=1, max_size=40)


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: f"{case['text'][:20]}-{case['n']}")
def test_the_released_metric(case: dict) -> None:
    assert ngram_repetition(case["text"], case["n"]) == pytest.approx(case["ratio"], abs=1e-9)


def test_the_released_metric_misses_loops_that_ours_finds() -> None:
    for loop in ("ha " * 50, "the cat sat " * 20):
        assert ngram_repetition(loop) < 0.4
        assert repeated_share(loop) > 0.9


@given(letters, st.integers(4, 40))
def test_a_text_of_any_period_is_a_loop(period: str, times: int) -> None:
    redundant = (times - 1) * len(period)
    assert loop_at_end(period * times).redundant >= redundant * (redundant >= SMALLEST)


@given(letters, st.integers(REPEATS, 20), st.data())
def test_a_loop_at_the_end_is_found_after_any_text_and_cut_anywhere(
    period: str, times: int, data: st.DataObject
) -> None:
    cut = data.draw(st.integers(0, len(period) - 1))
    loop = loop_at_end(f"{PROSE} {period * times}{period[:cut]}")
    redundant = (times - 1) * len(period)
    assert loop.redundant >= redundant * (redundant >= SMALLEST)


@given(words, st.integers(3, 20))
def test_a_loop_of_words_is_found_whatever_punctuation_is_between_them(period: list[str], times: int) -> None:
    text = " ".join(word + ".,;!?"[index % 5] for index, word in enumerate(period * times))
    assert loop_at_end(text).redundant >= (times - 1) * sum(map(len, period))


@given(words.filter(lambda period: len(period) >= 2), st.integers(12, 30))
def test_the_share_of_a_loop_is_what_comes_after_its_first_period(period: list[str], times: int) -> None:
    total = sum(map(len, period)) * times
    assert repeated_share(" ".join(period * times)) >= 1 - sum(map(len, period)) / total - 1e-9


@given(words, st.sampled_from(["\n", "  ", "\t", " \n "]))
def test_white_space_and_case_do_not_matter(text: list[str], separator: str) -> None:
    plain, other = " ".join(text), separator.join(word.upper() for word in text)
    assert repeated_share(plain) == repeated_share(other)
    assert loop_at_end(plain) == loop_at_end(other)


@given(st.text(max_size=300))
def test_measures_are_bounded_on_any_text(text: str) -> None:
    assert 0 <= ngram_repetition(text) <= 1
    assert 0 <= repeated_share(text) < 1
    loop = loop_at_end(text)
    assert loop.redundant >= 0
    assert loop.redundant == 0 or loop.repeats >= REPEATS


@given(st.integers(0, 10_000))
def test_random_text_passes(seed: int) -> None:
    rng = random.Random(seed)
    text = " ".join("".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 9))) for _ in range(200))
    assert repeated_share(text) == 0
    assert loop_at_end(text).redundant < 20


def test_a_text_given_twice_is_half_repeated() -> None:
    assert repeated_share(f"{PROSE} {PROSE}") == pytest.approx(0.5, abs=0.01)


def test_a_url_is_one_word_and_a_word_without_end_is_looked_at_by_characters() -> None:
    url = "https://example.org/" + "ab" * 50
    assert repeated_share(f"See {url} for it.") == 0
    assert repeated_share("ha" * 50) > 0.9


class Counted:
    """A unit that counts how often it is compared."""

    comparisons = 0

    def __init__(self, name: str) -> None:
        self.name = name

    def __len__(self) -> int:
        return 1

    def __eq__(self, other: object) -> bool:
        Counted.comparisons += 1
        return isinstance(other, Counted) and self.name == other.name

    __hash__ = None  # type: ignore[assignment]


@pytest.mark.parametrize("pattern", ["a", "ab", "aaab", "aabaaab"])
def test_looking_for_a_loop_takes_a_bounded_number_of_comparisons_per_unit(pattern: str) -> None:
    for size in (1_000, 10_000):
        Counted.comparisons = 0
        _loop([Counted(pattern[index % len(pattern)]) for index in range(size)] + [Counted("z")])  # type: ignore[list-item]
        assert Counted.comparisons <= 4 * size


def test_a_megabyte_is_looked_at_whole() -> None:
    text = PROSE * (1_000_000 // len(PROSE)) + "and so on " * 50
    assert repeated_share(text) > 0.9
    assert loop_at_end(text).redundant >= 480
    assert loop_at_end(PROSE * 300).redundant > 0.98 * 299 * len(PROSE)
