"""A conversation as token ids and labels, for one tokenizer, one template and one number of tokens per tile.

Shapes: S tokens of a sample.
"""

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple, Protocol

import numpy as np

from internvl_trainer.data.conversations.labels import IGNORED, Labelled, by_parts, turn_by_turn
from internvl_trainer.data.conversations.placeholders import placed
from internvl_trainer.data.conversations.template import HEADERS, TEMPLATES, TemplateName
from internvl_trainer.data.errors import NothingSupervisedError, ReservedTokenError, VisualBlockCutError
from internvl_trainer.data.records import Record, Turn

_CACHED_TURNS = 4096
_CACHED_LENGTH = 512
"""Characters of the longest turn that is kept encoded. Data sets repeat their prompts, not their long answers."""


class ConversationTokenizer(Protocol):
    """What this module needs of a tokenizer. `encode` adds nothing of its own and knows special tokens by name."""

    def encode(self, text: str) -> list[int]: ...

    @property
    def img_context_id(self) -> int: ...

    @property
    def bos_id(self) -> int | None: ...


class Encoded(NamedTuple):
    """One sample, both arrays int32[S]. `labels[t]` is `tokens[t]` where it is learned, else IGNORED: not shifted."""

    tokens: np.ndarray
    labels: np.ndarray

    @property
    def supervised(self) -> int:
        """Number of tokens that are learned."""
        return int(np.count_nonzero(self.labels != IGNORED))


class ConversationEncoder:
    """Turns records into token ids. Safe to use from several threads.

    Args:
        tokenizer: of the language model.
        tokens_per_tile: visual tokens of one tile.
        template: one of `TEMPLATES`.
    """

    def __init__(
        self, tokenizer: ConversationTokenizer, *, tokens_per_tile: int, template: TemplateName = "internvl2_5"
    ) -> None:
        self._tokenizer = tokenizer
        self._tokens_per_tile = tokens_per_tile
        self._template = TEMPLATES[template]
        self._kept = functools.lru_cache(maxsize=_CACHED_TURNS)(self._tokenise)
        self._answer_header = len(self._kept(HEADERS["gpt"]))
        bos = tokenizer.bos_id if self._template.begins_with_bos else None
        self._bos = np.asarray([] if bos is None else [bos], dtype=np.int32)

    def encode(self, record: Record, tiles: Sequence[int], *, max_tokens: int) -> Encoded:
        """Token ids and labels of a whole conversation, cut on the right to `max_tokens`.

        Args:
            record: the sample.
            tiles: number of tiles of each of its images or frames.
            max_tokens: most tokens to keep.

        Raises:
            PlaceholderMismatchError, ReservedTokenError: the text and the images do not belong together.
            TurnOrderError: the template has no place for a turn.
            VisualBlockCutError: the cut would remove visual tokens.
            NothingSupervisedError: no learned token is left.
        """
        whole = self.labelled(record, tiles, max_tokens=max_tokens)
        kept = Encoded(whole.tokens[:max_tokens], whole.labels[:max_tokens])
        self._check_cut(record.name, kept, sum(tiles), len(whole.tokens))
        return kept

    def labelled(self, record: Record, tiles: Sequence[int], *, max_tokens: int) -> Encoded:
        """Token ids and labels before the cut, as the released code gives them, learned from or not.

        The older templates learn nothing of a text that they cannot account for, unless it is longer than `max_tokens`.
        Raises like `encode`, but for the cut.
        """
        turns = self._turns(record, len(tiles))
        if self._template.by_turn:
            ids = [self._ids(self._template.write(turn)) for turn in turns]
            labelled = turn_by_turn([self._bos, *ids], [False, *(turn.role == "gpt" for turn in turns)],
                                    self._answer_header)  # fmt: skip
        else:
            labelled = by_parts(self._template, turns, self._ids, self._bos)
        return self._expanded(record.name, labelled, tiles, max_tokens)

    def prompt(self, record: Record, tiles: Sequence[int]) -> list[int]:
        """Token ids of a conversation up to an open assistant turn, to be continued by the model."""
        turns = self._turns(record, len(tiles))
        if self._template.by_turn:
            parts = [*(self._template.write(turn) for turn in turns), HEADERS["gpt"]]
        else:
            parts = [self._template.text(turns, open_answer=True)]
        tokens_S = np.concatenate([self._bos, *(self._ids(part) for part in parts)])
        opened = Labelled(tokens_S, np.full_like(tokens_S, IGNORED), len(tokens_S))
        return list(self._expanded(record.name, opened, tiles, 0).tokens.tolist())

    def _turns(self, record: Record, blocks: int) -> tuple[Turn, ...]:
        begun = replace(record, turns=self._template.begun(record.turns))
        turns = placed(begun, blocks, in_answers=not self._template.by_turn)
        return self._template.arrange(record.name, turns)

    def _ids(self, text: str) -> np.ndarray:
        return self._kept(text) if len(text) <= _CACHED_LENGTH else self._tokenise(text)

    def _tokenise(self, text: str) -> np.ndarray:
        return np.asarray(self._tokenizer.encode(text), dtype=np.int32)

    def _expanded(self, sample: str, labelled: Labelled, tiles: Sequence[int], max_tokens: int) -> Encoded:
        """Each block's one `<IMG_CONTEXT>` as many times as its image has visual tokens."""
        tokens_S, labels_S, covered = labelled
        context = tokens_S == self._tokenizer.img_context_id
        if (found := np.count_nonzero(context)) != len(tiles):
            raise ReservedTokenError(
                sample, f"the text contains <IMG_CONTEXT> {found - len(tiles)} times; only images may bring it"
            )
        repeats = np.ones(len(tokens_S), dtype=np.int64)
        repeats[context] = np.asarray(tiles, dtype=np.int64) * self._tokens_per_tile
        if covered != len(tokens_S) and repeats[:covered].sum() < max_tokens:
            labels_S = np.full_like(labels_S, IGNORED)
        return Encoded(np.repeat(tokens_S, repeats), np.repeat(labels_S, repeats))

    def _check_cut(self, sample: str, kept: Encoded, tiles: int, length: int) -> None:
        expected = tiles * self._tokens_per_tile
        visual = int(np.count_nonzero(kept.tokens == self._tokenizer.img_context_id))
        if visual < expected:
            raise VisualBlockCutError(
                sample,
                f"{length} tokens, cut to {len(kept.tokens)}, which leaves {visual} of {expected} visual tokens; "
                "lower max_dynamic_patch or max_frames, or raise pack_tokens",
            )
        if not kept.supervised:
            raise NothingSupervisedError(
                sample, f"no answer among the first {len(kept.tokens)} of {length} tokens; nothing can be learned"
            )
