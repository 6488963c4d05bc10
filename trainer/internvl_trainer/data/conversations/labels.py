"""Which tokens of a conversation are learned, by template. Pure, given a tokenizer.

Source: the released behaviour. In `internvl2_5` every turn is tokenised on its own, so no merge crosses a turn; of an
answer, the header and the newline after `<|im_end|>` are masked, its text and `<|im_end|>` are learned.

The older templates tokenise the whole text at once, and find the answers in it by the lengths of its parts. Where those
do not add up to the length of the whole, because a merge crosses a part or a part is missing, nothing is learned. They
differ in their parts, and so in what a question without an answer at the end does, and an empty text anywhere: with
`Hermes-2` both leave nothing to learn (unless the lengths happen to add up); with `internlm2-chat` the question counts
as part of the answer before it, and an empty answer alone is not learned.

Shapes: S tokens, each visual block having one.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from internvl_trainer.data.conversations.template import HEADERS, Template
from internvl_trainer.data.records import Turn

IGNORED = -100
"""Label of a position that is not learned from."""

Encode = Callable[[str], np.ndarray]
"""Token ids of a text, int32[S]."""


class Part(NamedTuple):
    """A stretch of the text of an older template."""

    text: str
    masked: str
    """Its beginning, of which nothing is learned."""


class Labelled(NamedTuple):
    """Token ids and labels, and how far the labels are sure.

    Attributes:
        tokens_S, labels_S: int32.
        covered: tokens that the parts account for. Unless it is all of them, or a cut hides the rest, nothing may be
            learned.
    """

    tokens_S: np.ndarray
    labels_S: np.ndarray
    covered: int


def turn_by_turn(turns: Sequence[np.ndarray], answers: Sequence[bool], header: int) -> Labelled:
    """Labels of turns that were tokenised one by one; `header` is the length of an answer's header."""
    tokens_S = np.concatenate(turns)
    labels_S = np.full_like(tokens_S, IGNORED)
    begin = 0
    for ids, answer in zip(turns, answers, strict=True):
        end = begin + len(ids)
        if answer:
            labels_S[begin + header : end - 1] = ids[header:-1]
        begin = end
    return Labelled(tokens_S, labels_S, len(tokens_S))


def by_parts(template: Template, turns: Sequence[Turn], encode: Encode, bos: np.ndarray) -> Labelled:
    """Labels of the whole text of arranged turns, by an older template; `bos` stands in front, or is empty."""
    tokens_S = np.concatenate([bos, encode(template.text(turns))])
    labels_S = np.full_like(tokens_S, IGNORED)
    begin = len(bos)
    for part in (_rounds if template.name == "Hermes-2" else _answers)(template, turns):
        end = begin + len(encode(part.text))
        learned = slice(begin + len(encode(part.masked)), end)
        labels_S[learned] = tokens_S[learned]
        begin = end
    return Labelled(tokens_S, labels_S, begin)


def _rounds(template: Template, turns: Sequence[Turn]) -> list[Part]:
    """One part for each question with its answer, the system turn in front of the first.

    Turns are told apart by what closes them, so an empty text, whose turn is open, makes one of two. From a part that
    has not exactly one answer on, nothing is accounted for.
    """
    pieces = template.text(turns).split(template.turn_end)
    border = template.turn_end + HEADERS["gpt"]
    parts: list[Part] = []
    for end in range(3, len(pieces) + 2, 2):
        text = template.turn_end.join(pieces[end - 2 if parts else 0 : end])
        question, *answers = text.split(border)
        if len(answers) != 1:
            break
        parts.append(Part(text + template.turn_end, question + border))
    return parts


def _answers(template: Template, turns: Sequence[Turn]) -> list[Part]:
    """Everything up to an answer's text, and then that text, by turns; what follows the last answer belongs to it."""
    parts, before = [], ""
    for turn in turns:
        if turn.role == "gpt":
            header = HEADERS["gpt"]
            parts += [Part(before + header, before + header), Part(template.write(turn).removeprefix(header), "")]
            before = ""
        else:
            before += template.write(turn)
    if parts:
        parts[-1] = Part(parts[-1].text + before, "")
    return parts
