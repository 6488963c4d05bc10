"""Each rule flags what it is for, and leaves alone what good data has."""

import pytest

from internvl_trainer.curation.filter.rules import BY_NAME, RULES
from internvl_trainer.data.records import Turn
from tests.unit.trainer.curation.filter.samples import BAD, GOOD, PROSE

pytestmark = pytest.mark.unit


def conversation(answer: str) -> tuple[Turn, ...]:
    return (Turn("human", "<image>\nDescribe it."), Turn("gpt", answer))


@pytest.mark.parametrize("name", GOOD)
def test_a_good_answer_is_flagged_by_no_rule(name: str) -> None:
    assert [rule.judge(conversation(GOOD[name])) for rule in RULES if rule.judge(conversation(GOOD[name]))] == []


@pytest.mark.parametrize("name", BAD)
def test_a_bad_answer_is_flagged_by_the_rule_made_for_it(name: str) -> None:
    answer, expected = BAD[name]
    flagged = {rule.name for rule in RULES if rule.judge(conversation(answer))}
    assert flagged >= expected


def test_every_rule_is_shown_by_a_bad_answer_or_a_conversation_below() -> None:
    shown = set().union(*(names for _, names in BAD.values()))
    assert {rule.name for rule in RULES} - shown == {"long-answer", "repeated-answers"}


def test_an_answer_that_is_too_long() -> None:
    finding = BY_NAME["long-answer"].judge(conversation(PROSE * 30))
    assert finding is not None
    assert finding.value == len(PROSE) * 30
    assert finding.limit == 60_000


def test_one_answer_to_several_questions() -> None:
    refusal = "I am sorry, but I cannot answer questions about this picture."
    turns = [turn for n in range(3) for turn in (Turn("human", f"Question {n}?"), Turn("gpt", refusal))]
    finding = BY_NAME["repeated-answers"].judge(turns)
    assert finding is not None
    assert (finding.value, finding.limit) == (3, 2)
    assert BY_NAME["repeated-answers"].judge([turn._replace(text="Yes.") for turn in turns]) is None


def test_a_conversation_without_an_answer_has_an_answer_of_length_zero() -> None:
    finding = BY_NAME["short-answer"].judge([Turn("human", "Hello?")])
    assert finding is not None
    assert (finding.value, finding.limit, finding.detail) == (0, 1, "no answer")


def test_what_a_person_asks_is_judged_for_broken_characters_but_not_for_repetition() -> None:
    asked = Turn("human", "Fix this: " + "ha " * 100 + "\ufffd" * 10)
    flagged = {rule.name for rule in RULES if rule.judge([asked, Turn("gpt", "Here it is.")])}
    assert flagged == {"garbled"}


def test_a_finding_tells_value_and_limit_and_the_limit_itself_is_allowed() -> None:
    rule = BY_NAME["zero-run"]
    assert rule.judge(conversation("0" * 64)) is None
    finding = rule.judge(conversation("0" * 65))
    assert finding is not None
    assert (finding.rule, finding.value, finding.limit) == ("zero-run", 65, 64)


def test_a_limit_can_be_moved() -> None:
    rule = BY_NAME["short-answer"]
    assert rule.judge(conversation("Yes")) is None
    assert rule.judge(conversation("Yes"), 20) is not None
    assert rule.judge(conversation("Yes"), 3) is None
