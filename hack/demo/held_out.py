"""The final evaluation: does a trained model know the caption of a picture that it has never seen?

Each held-out picture comes with its true caption among nineteen others. The model's score of a caption is how much
likelier it finds it before this picture than before pictures in general (pointwise mutual information): log p(caption
| picture) less the mean over reference pictures out of training. Without the second part, short and frequent captions
would win whatever the picture shows.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from rich.progress import track

from hack.demo.verdicts import Verdict, captions_table, summary
from internvl_trainer.contract.manifest import ManifestRef
from internvl_trainer.data.records import parse_record
from internvl_trainer.inference.generate import Answerer, Question
from internvl_trainer.inference.load import opened
from internvl_trainer.storage import ObjectStore

__all__ = ["Verdict", "captions_table", "judge", "summary"]

REFERENCES = 8
"""Training pictures over which the likelihood of a caption in general is taken."""

SHOWN = 12
"""Held-out pictures, spread over all kinds, that the model is asked to name in its own words."""


@dataclass(frozen=True)
class _Asked:
    caption: str
    choices: tuple[str, ...]
    question: Question


def judge(
    ref: ManifestRef, data: Path, *, store: ObjectStore, scratch: Path, limit: int | None = None
) -> tuple[Verdict, ...]:
    """Judge a checkpoint by the held-out questions of the data set in folder `data`.

    Raises:
        CheckpointError: the checkpoint does not exist or does not verify.
        StoreError: the store did not answer.
    """
    asked = _read(data / "held_out.jsonl", data)[:limit]
    references = _read(data / "captions.jsonl", data, count=REFERENCES)
    with opened(ref, tokenizer=str(data / "tokenizer"), store=store, scratch=scratch, max_tiles=1) as model:
        general = _in_general(model, references, sorted({choice for one in asked for choice in one.choices}))
        shown = asked[:: max(1, len(asked) // SHOWN)][:SHOWN]
        answers = model.generate([one.question for one in shown], max_new_tokens=24)
        said = dict(zip((one.caption for one in shown), answers, strict=True))
        return tuple(
            Verdict(one.caption, said.get(one.caption), _rank(model, one, general), len(one.choices))
            for one in track(asked, description="ranking captions")
        )


def _in_general(model: Answerer, references: Sequence[_Asked], captions: Sequence[str]) -> dict[str, float]:
    """The log of each caption's mean likelihood over the reference pictures."""
    scores = [model.log_likelihoods(one.question, captions) for one in track(references, description="references")]
    return dict(zip(captions, np.logaddexp.reduce(scores, axis=0) - math.log(len(scores)), strict=True))


def _rank(model: Answerer, asked: _Asked, general: dict[str, float]) -> int:
    likelihoods = model.log_likelihoods(asked.question, asked.choices)
    scores = [value - general[choice] for value, choice in zip(likelihoods, asked.choices, strict=True)]
    true = scores[asked.choices.index(asked.caption)]
    return sum(score > true for score in scores)


def _read(path: Path, folder: Path, *, count: int | None = None) -> list[_Asked]:
    """Questions of a JSONL file; with `count`, that many spread evenly over it."""
    lines = path.read_bytes().splitlines()
    if count is not None:
        lines = lines[:: max(1, len(lines) // count)][:count]
    return [_asked(line, number, path.stem, folder) for number, line in enumerate(lines, start=1)]


def _asked(line: bytes, number: int, source: str, folder: Path) -> _Asked:
    record = parse_record(line, source=source, line_number=number)
    fields = json.loads(line)
    turns = tuple(turn for turn in record.turns if turn.role != "gpt")
    images = tuple(Image.open(folder / image).convert("RGB") for image in record.images)
    return _Asked(fields.get("answer", ""), tuple(fields.get("choices", ())), Question(turns, images))
