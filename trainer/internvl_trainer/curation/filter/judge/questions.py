"""What a judge is asked about a sample, and by which key its answer is found again. Pure but for the prompt files."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.resources import files
from typing import NamedTuple

from internvl_trainer.curation.filter.policy import QUALITY_SCORE, REPETITION_SCORE, JudgeSettings, SourceSettings
from internvl_trainer.data.records import Kind, Record, Turn

_SPEAKERS = {"system": "SYSTEM", "human": "USER", "gpt": "ASSISTANT"}
_ROUGH_CHARACTERS_PER_TOKEN = 4


class Question(NamedTuple):
    """One request. `key` is the same for the same turns, prompt, model and further request fields, and no others."""

    check: str
    prompt: str
    conversation: str
    key: bytes

    @property
    def tokens(self) -> int:
        """Estimate of the prompt's tokens: a quarter of the ASCII characters, and each other character."""
        text = self.prompt + self.conversation
        ascii_characters = len(text.encode("ascii", "ignore"))
        return ascii_characters // _ROUGH_CHARACTERS_PER_TOKEN + len(text) - ascii_characters + 1


@cache
def prompt(name: str) -> str:
    """One of the prompts in prompts/."""
    return files(__package__).joinpath("prompts", f"{name}.md").read_text(encoding="utf-8")


def questions(record: Record, source: SourceSettings, judge: JudgeSettings) -> Iterator[Question]:
    """What is asked about a sample: its quality, if it is text or the policy insists, and whether it repeats itself."""
    is_text = source.kind == "text" or (source.kind == "auto" and record.kind is Kind.TEXT)
    wanted = source.quality == "always" or (source.quality == "text" and is_text)
    if judge.quality.enabled and wanted and not source.exempts(QUALITY_SCORE):
        yield _question(QUALITY_SCORE, f"quality-{source.domain}", record.turns, judge)
    if judge.repetition.enabled and not source.exempts(REPETITION_SCORE):
        yield _question(REPETITION_SCORE, "repetition", record.turns, judge)


def _question(check: str, name: str, turns: Sequence[Turn], judge: JudgeSettings) -> Question:
    text = prompt(name)
    identity = [text, judge.model, judge.extra, judge.max_characters, [[turn.role, turn.text] for turn in turns]]
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).digest()
    return Question(check, text, _shown(turns, judge.max_characters), key)


def _shown(turns: Sequence[Turn], limit: int) -> str:
    """The conversation as a judge reads it."""
    text = "\n\n".join(f"{_SPEAKERS[turn.role]}:\n{turn.text}" for turn in turns)
    if len(text) > limit:
        # The end matters most: that is where loops are.
        head = limit // 2
        text = f"{text[:head]}\n[... {len(text) - limit} characters left out ...]\n{text[head - limit :]}"
    return f"----------\n{text}"
