"""A conversation as token ids and labels, in InternVL-2.5's ChatML template.

Source: the released `internvl2_5` behaviour. Every turn is tokenised on its own, so no merge crosses a turn; system
and user turns are masked; of an assistant turn the header and the final newline are masked, its text and `<|im_end|>`
are learned. Models of the InternLM family get one `<s>` at the very start. A visual block is `<img>`, `<IMG_CONTEXT>`
for every visual token of all tiles of one image, `</img>`.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from internvl_trainer.data.errors import (
    NothingSupervisedError,
    PlaceholderMismatchError,
    ReservedTokenError,
    VisualBlockCutError,
)
from internvl_trainer.data.records import Record, Role, Turn

IGNORED = -100
"""Label of a position that is not learned from."""

IMAGE_PLACEHOLDER = "<image>"

SYSTEM_MESSAGE = (
    "你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及多家合作单位联合开发的多模态大语言模型。"  # noqa: RUF001
)
"""What InternVL-2.5 models are told when a conversation does not begin with a system turn of its own."""

_BLOCK = "<img><IMG_CONTEXT></img>"
_HEADERS: dict[Role, str] = {
    "system": "<|im_start|>system\n",
    "human": "<|im_start|>user\n",
    "gpt": "<|im_start|>assistant\n",
}
_TURN_END = "<|im_end|>\n"


class ConversationTokenizer(Protocol):
    """What this module needs of a tokenizer. `encode` adds nothing of its own and knows special tokens by name."""

    def encode(self, text: str) -> list[int]: ...

    @property
    def img_context_id(self) -> int: ...

    @property
    def bos_id(self) -> int | None: ...


class Encoded(NamedTuple):
    """One sample. `labels[t]` is `tokens[t]` where it is learned, IGNORED elsewhere: not yet shifted."""

    tokens: list[int]
    labels: list[int]

    @property
    def supervised(self) -> int:
        """Number of tokens that are learned."""
        return len(self.labels) - self.labels.count(IGNORED)


def with_placeholders(record: Record) -> Record:
    """The record as the template reads it: a single image that no human turn places stands before the first one."""
    human = [position for position, turn in enumerate(record.turns) if turn.role == "human"]
    placed = sum(record.turns[position].text.count(IMAGE_PLACEHOLDER) for position in human)
    if len(record.images) == 1 and placed == 0 and human:
        turns = list(record.turns)
        turns[human[0]] = Turn("human", f"{IMAGE_PLACEHOLDER}\n{turns[human[0]].text}")
        return Record(record.name, tuple(turns), record.images, record.sizes)
    if placed != len(record.images):
        raise PlaceholderMismatchError(
            record.name, f"{placed} {IMAGE_PLACEHOLDER} in human turns for {len(record.images)} images; must be equal"
        )
    return record


class ConversationEncoder:
    """Turns records into token ids for one tokenizer and one model's number of visual tokens per tile."""

    def __init__(self, tokenizer: ConversationTokenizer, *, tokens_per_tile: int) -> None:
        self._tokenizer = tokenizer
        self._tokens_per_tile = tokens_per_tile
        # Data sets repeat their prompts and the system message, so most turns are encoded once.
        self._encode = functools.lru_cache(maxsize=8192)(lambda text: tuple(tokenizer.encode(text)))
        self._answer_header = len(self._encode(_HEADERS["gpt"]))

    def encode(self, record: Record, tiles: Sequence[int], *, max_tokens: int) -> Encoded:
        """Token ids and labels of a whole conversation, cut on the right to `max_tokens`.

        Args:
            record: the sample.
            tiles: number of tiles of each of its images.
            max_tokens: most tokens to keep.

        Raises:
            PlaceholderMismatchError, ReservedTokenError: the text and the images do not belong together.
            VisualBlockCutError: the cut would remove visual tokens.
            NothingSupervisedError: no learned token is left.
        """
        tokens, labels = self._start()
        for turn, ids in self._turns(record, tiles):
            tokens += ids
            labels += self._answer_labels(ids) if turn.role == "gpt" else [IGNORED] * len(ids)
        encoded = Encoded(tokens[:max_tokens], labels[:max_tokens])
        self._check_cut(record.name, encoded, sum(tiles), len(tokens))
        return encoded

    def prompt(self, record: Record, tiles: Sequence[int]) -> list[int]:
        """Token ids of a conversation up to an open assistant turn, to be continued by the model."""
        tokens, _ = self._start()
        for _, ids in self._turns(record, tiles):
            tokens += ids
        return tokens + list(self._encode(_HEADERS["gpt"]))

    def _answer_labels(self, ids: list[int]) -> list[int]:
        header = self._answer_header
        return [*[IGNORED] * header, *ids[header:-1], IGNORED]

    def _start(self) -> tuple[list[int], list[int]]:
        bos = self._tokenizer.bos_id
        return ([], []) if bos is None else ([bos], [IGNORED])

    def _turns(self, record: Record, tiles: Sequence[int]) -> list[tuple[Turn, list[int]]]:
        record = with_placeholders(record)
        turns = record.turns
        if turns[0].role != "system":
            turns = (Turn("system", SYSTEM_MESSAGE), *turns)
        remaining = list(tiles)
        return [(turn, self._encode_turn(record.name, turn, remaining)) for turn in turns]

    def _encode_turn(self, sample: str, turn: Turn, remaining: list[int]) -> list[int]:
        """One turn's ids; takes its images' tile counts off the front of `remaining`."""
        blocks = turn.text.count(IMAGE_PLACEHOLDER) if turn.role == "human" else 0
        text = turn.text.replace(IMAGE_PLACEHOLDER, _BLOCK) if blocks else turn.text
        ids = list(self._encode(_HEADERS[turn.role] + text + _TURN_END))
        context = self._tokenizer.img_context_id
        if ids.count(context) != blocks:
            raise ReservedTokenError(sample, f"a {turn.role} turn contains <IMG_CONTEXT>, which only images may bring")
        if not blocks:
            return ids
        expanded: list[int] = []
        for token in ids:
            expanded += [token] * (self._tokens_per_tile * remaining.pop(0)) if token == context else [token]
        return expanded

    def _check_cut(self, sample: str, kept: Encoded, tiles: int, length: int) -> None:
        expected = tiles * self._tokens_per_tile
        visual = kept.tokens.count(self._tokenizer.img_context_id)
        if visual < expected:
            raise VisualBlockCutError(
                sample,
                f"{length} tokens, cut to {len(kept.tokens)}, which leaves {visual} of {expected} visual tokens; "
                "lower max_dynamic_patch or raise pack_tokens",
            )
        if not kept.supervised:
            raise NothingSupervisedError(
                sample, f"no answer among the first {len(kept.tokens)} of {length} tokens; nothing can be learned"
            )
