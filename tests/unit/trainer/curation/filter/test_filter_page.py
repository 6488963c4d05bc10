"""docs/tasks/filter-data.md says what the code does."""

import re
from pathlib import Path

import pytest
import yaml

from internvl_trainer.curation.filter.policy import JudgeSettings, Policy
from internvl_trainer.curation.filter.rules import RULES

pytestmark = pytest.mark.unit

PAGE = (Path(__file__).parents[5] / "docs" / "tasks" / "filter-data.md").read_text()


def test_the_table_of_rules_is_that_of_the_code() -> None:
    rows = re.findall(r"^\| `([\w-]+)` \| (.+) \| (above|below) ([\d,.]+) (\w+) \|$", PAGE, re.MULTILINE)
    assert rows == [
        (rule.name, rule.description, "below" if rule.is_minimum else "above", f"{rule.limit:,}", rule.unit)
        for rule in RULES
    ]


def test_the_page_names_the_rules_that_an_exemption_covers() -> None:
    (sentence,) = re.findall(r"`exempt: \[repetition\]` covers (.+?)\.", PAGE, re.DOTALL)
    assert re.findall(r"`([\w-]+)`", sentence) == [rule.name for rule in RULES if rule.is_repetition] + [
        "repetition-score"
    ]


def test_the_policy_of_the_page_is_one_and_shows_every_field_of_the_judge() -> None:
    (text,) = re.findall(r"```yaml\n(.+?)```", PAGE, re.DOTALL)
    policy = Policy.model_validate(yaml.safe_load(text))
    assert policy.judge is not None
    assert set(JudgeSettings.model_fields) == set(yaml.safe_load(text)["judge"])
