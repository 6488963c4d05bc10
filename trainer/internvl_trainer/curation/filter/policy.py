"""What is judged, how strictly, and what happens to what is found: a small YAML file, every field with a default."""

from enum import StrEnum
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from internvl_trainer.curation.filter.errors import PolicyError
from internvl_trainer.curation.filter.rules import BY_NAME
from internvl_trainer.launch.places import Places

MALFORMED = "malformed"
"""Name of the finding for a line that is no conversation at all."""

REPETITION = "repetition"
"""Stands in `exempt` for all that looks for repetition: the rules marked so, and the model's score."""

QUALITY_SCORE = "quality-score"
REPETITION_SCORE = "repetition-score"


class Action(StrEnum):
    """What happens to a flagged sample."""

    REVIEW = "review"
    REMOVE = "remove"


class Domain(StrEnum):
    """Of which kind a text is; each has a prompt of its own for quality."""

    GENERAL = "general"
    DISCIPLINARY = "disciplinary"
    PROGRAMMING = "programming"
    MATHEMATICS = "mathematics"


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RuleSettings(_Settings):
    """One heuristic rule. The report reviews by hand whatever a heuristic flags, so that is the default here."""

    enabled: bool = True
    limit: float | None = Field(default=None, ge=0, allow_inf_nan=False, description="in place of the rule's own")
    action: Action = Action.REVIEW


class ScoreSettings(_Settings):
    """A score of 0..10 by the language model; below the threshold a sample is flagged."""

    enabled: bool = True
    threshold: float = Field(ge=0, le=10)
    action: Action


class PriceSettings(_Settings):
    """What an endpoint charges, in any currency."""

    input: float = Field(default=0.0, ge=0, description="for a million tokens of prompts")
    output: float = Field(default=0.0, ge=0, description="for a million tokens of answers")


class JudgeSettings(_Settings):
    """A language model behind an OpenAI-compatible endpoint. The API key is never part of a policy."""

    base_url: str = Field(description="with the version, such as http://judge:8000/v1")
    model: str = Field(min_length=1)
    api_key_env: str = Field(default="OPENAI_API_KEY", description="environment variable that holds the API key")
    requests_per_minute: int | None = Field(default=None, ge=1)
    tokens_per_minute: int | None = Field(default=None, ge=1000, description="prompts and answers together, estimated")
    concurrency: int = Field(default=16, ge=1, le=1024)
    timeout_seconds: float = Field(default=120.0, gt=0)
    attempts: int = Field(default=6, ge=1, description="for one request, where the endpoint fails or asks to wait")
    answers: int = Field(default=3, ge=1, description="how often a question is put until its answer can be read")
    max_answer_tokens: int = Field(default=256, ge=16)
    max_characters: int = Field(
        default=24_000, ge=1000, description="of a conversation; the middle of more is left out"
    )
    extra: dict[str, Any] = Field(default_factory=dict, description="further fields of the request's body")
    quality: ScoreSettings = ScoreSettings(threshold=7, action=Action.REMOVE)
    repetition: ScoreSettings = ScoreSettings(threshold=3, action=Action.REVIEW)
    price: PriceSettings = PriceSettings()

    @field_validator("base_url")
    @classmethod
    def _no_credentials(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.username or parts.password:
            raise ValueError("the URL carries credentials; put the API key into the environment")
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError(f"{url!r} is no http:// or https:// URL")
        return url


class SourceSettings(_Settings):
    """What is particular to a data set."""

    kind: Literal["auto", "text", "multimodal"] = Field(
        default="auto", description="auto: a sample without media is text"
    )
    domain: Domain = Domain.GENERAL
    exempt: tuple[str, ...] = Field(default=(), description="rules and scores that do not apply")
    quality: Literal["text", "always", "never"] = Field(
        default="text", description="which samples are scored for quality; the report scores text alone"
    )

    @field_validator("exempt")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        known = {*BY_NAME, REPETITION, QUALITY_SCORE, REPETITION_SCORE}
        if unknown := sorted(set(names) - known):
            raise ValueError(f"no rule {', '.join(unknown)}; there are {', '.join(sorted(known))}")
        return names

    def exempts(self, check: str) -> bool:
        """Whether a rule or a score does not apply."""
        is_repetition = check == REPETITION_SCORE or (check in BY_NAME and BY_NAME[check].is_repetition)
        return check in self.exempt or (is_repetition and REPETITION in self.exempt)


_DEFAULT_RULE = RuleSettings()
_DEFAULT_SOURCE = SourceSettings()


class Policy(_Settings):
    """Rules by name, data sets by name or pattern (`ai2d*`; the first that fits), and a judge, or none."""

    rules: dict[str, RuleSettings] = Field(default_factory=dict)
    sources: dict[str, SourceSettings] = Field(default_factory=dict)
    judge: JudgeSettings | None = None

    @field_validator("rules")
    @classmethod
    def _known(cls, rules: dict[str, RuleSettings]) -> dict[str, RuleSettings]:
        if unknown := sorted(set(rules) - {*BY_NAME, MALFORMED}):
            raise ValueError(f"no rule {', '.join(unknown)}; there are {', '.join(sorted({*BY_NAME, MALFORMED}))}")
        return rules

    def rule(self, name: str) -> RuleSettings:
        """The settings of a rule, given or default."""
        return self.rules.get(name, _DEFAULT_RULE)

    def source(self, name: str) -> SourceSettings:
        """The settings of a data set: those under its own name, else of the first pattern that fits, else defaults."""
        if name in self.sources:
            return self.sources[name]
        fitting = (settings for pattern, settings in self.sources.items() if fnmatchcase(name, pattern))
        return next(fitting, _DEFAULT_SOURCE)


def read_policy(path: Path) -> Policy:
    """The policy of a YAML file.

    Raises:
        PolicyError: unreadable, a syntax error, an unknown field or rule, a wrong value; all with file and line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PolicyError(f"policy {path} cannot be read: {error}") from error
    places = Places(path, PolicyError, "a policy is a mapping with rules, sources and judge")
    document = places.read_yaml(text)
    try:
        return Policy.model_validate(document)
    except ValidationError as error:
        raise PolicyError(places.explain(error, Policy)) from error
