"""A policy says what it wants, or is told where it does not."""

from pathlib import Path

import pytest

from internvl_trainer.contract.exit_codes import ExitCode
from internvl_trainer.curation.filter.errors import PolicyError
from internvl_trainer.curation.filter.policy import (
    QUALITY_SCORE,
    REPETITION_SCORE,
    Action,
    Domain,
    Policy,
    SourceSettings,
    read_policy,
)
from internvl_trainer.curation.filter.rules import RULES

pytestmark = pytest.mark.unit

POLICY = """\
rules:
  zero-run: {limit: 20, action: remove}
  symbols: {enabled: false}
sources:
  gsm8k: {domain: mathematics}
  ai2d*: {exempt: [repetition]}
  "*": {kind: multimodal}
judge:
  base_url: http://judge:8000/v1
  model: judge-72b
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "policy.yaml"
    path.write_text(text)
    return path


def test_without_a_policy_every_rule_is_on_and_a_person_reviews_what_it_flags() -> None:
    policy = Policy()
    assert {policy.rule(rule.name).action for rule in RULES} == {Action.REVIEW}
    assert all(policy.rule(rule.name).enabled for rule in RULES)
    assert policy.judge is None


def test_a_policy_of_its_own(tmp_path: Path) -> None:
    policy = read_policy(written(tmp_path, POLICY))
    assert (policy.rule("zero-run").limit, policy.rule("zero-run").action) == (20, Action.REMOVE)
    assert not policy.rule("symbols").enabled
    assert policy.source("gsm8k").domain is Domain.MATHEMATICS
    assert policy.source("gsm8k").kind == "auto"
    assert policy.source("ai2d_train").exempt == ("repetition",)
    assert policy.source("else").kind == "multimodal"
    assert policy.judge is not None
    assert (policy.judge.quality.threshold, policy.judge.quality.action) == (7, Action.REMOVE)
    assert (policy.judge.repetition.threshold, policy.judge.repetition.action) == (3, Action.REVIEW)


def test_exempt_from_repetition_is_exempt_from_all_that_looks_for_it() -> None:
    settings = SourceSettings(exempt=("repetition", "symbols"))
    names = {rule.name for rule in RULES if settings.exempts(rule.name)}
    assert names == {"symbols", "duplicate-lines", "repeated-answers", "repeated-text", "endless-loop"}
    assert settings.exempts(REPETITION_SCORE)
    assert not settings.exempts(QUALITY_SCORE)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rules:\n  zero-run: {limit: 3\n", "policy.yaml, line 3, column 1: is no YAML"),
        ("rules: {}\nrules: {}\n", "policy.yaml, line 2: rules was given in line 1 already"),
        ("rules:\n  zero-runs: {limit: 3}\n", "policy.yaml, line 1: rules: no rule zero-runs"),
        (
            "rules:\n  zero-run:\n    limits: 3\n",
            "policy.yaml, line 3: rules.zero-run.limits: no such field; did you mean limit?",
        ),
        (
            "rules:\n  zero-run: {limit: -4}\n",
            "rules.zero-run.limit: Input should be greater than or equal to 0, not -4",
        ),
        ("rules:\n  zero-run: {limit: .nan}\n", "rules.zero-run.limit: Input should be"),
        ("rules:\n  zero-run: {action: delete}\n", "policy.yaml, line 2: rules.zero-run.action: Input should be"),
        ("sources:\n  a: {exempt: [zeros]}\n", "policy.yaml, line 2: sources.a.exempt: no rule zeros"),
        ("judge:\n  model: m\n", "policy.yaml, line 1: judge.base_url: Field required"),
        ("judge:\n  base_url: judge\n  model: m\n", "policy.yaml, line 2: judge.base_url: 'judge' is no"),
        (
            "judge:\n  model: m\n  base_url: http://me:secret@judge/v1\n",
            "policy.yaml, line 3: judge.base_url: the URL carries credentials",
        ),
        ("- a\n", "policy.yaml: holds a list; a policy is a mapping with rules, sources and judge"),
        ("", "policy.yaml: holds nothing"),
    ],
)
def test_what_is_wrong_is_told_with_file_and_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(PolicyError) as caught:
        read_policy(written(tmp_path, text))
    assert message in str(caught.value)
    assert "secret" not in str(caught.value)
    assert caught.value.exit_code == ExitCode.INVALID_CONFIG


def test_a_policy_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="cannot be read"):
        read_policy(tmp_path / "none.yaml")
