"""Greedy answers, and how likely a model finds given answers.

Shapes: S tokens of a pack, K positions asked for, T visual tokens, N tiles, H hidden.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from internvl_trainer.data import tiling
from internvl_trainer.data.conversations import IGNORED, ConversationEncoder
from internvl_trainer.data.records import Record, Turn
from internvl_trainer.data.tokenizer import Tokenizer
from internvl_trainer.model.batch import MicroBatch
from internvl_trainer.model.internvl import InternVLModel
from internvl_trainer.model.loss import PackLoss


@dataclass(frozen=True)
class Question:
    """A conversation that waits for the assistant, and its images in the order of their `<image>` placeholders."""

    turns: tuple[Turn, ...]
    images: tuple[Image.Image, ...] = ()

    @classmethod
    def of(cls, text: str, *images: Image.Image) -> "Question":
        """One user turn, such as "<image>\\nName it."."""
        return cls((Turn("human", text),), images)


class Answerer:
    """Asks one model, which lives whole in this process. There is no key-value cache: it is meant for short answers.

    Args:
        model: with all weights, on a grid of one process.
        tokenizer: the one that it was trained with.
        max_tiles, thumbnail: how images are cut; as in training.
        max_tokens: longest conversation, in tokens.
    """

    def __init__(
        self,
        model: InternVLModel,
        tokenizer: Tokenizer,
        *,
        max_tiles: int = 12,
        thumbnail: bool = True,
        max_tokens: int = 16384,
    ) -> None:
        self._model = model.eval()
        self._tokenizer = tokenizer
        self._encoder = ConversationEncoder(tokenizer, tokens_per_tile=model.geometry.tokens_per_tile)
        self._max_tiles = max_tiles
        self._thumbnail = thumbnail
        self._max_tokens = max_tokens
        self._device = next(model.parameters()).device

    @torch.no_grad()
    def generate(self, questions: Sequence[Question], *, max_new_tokens: int = 64) -> list[str]:
        """The greedy answer to each question; all are answered together, as segments of one pack.

        Returns:
            texts without special tokens, cut at `max_new_tokens` tokens.
        """
        cuts = [self._cut(question) for question in questions]
        visuals = [self._visual_tokens(tiles) for tiles, _ in cuts]
        segments = [self._encoder.prompt(_record(q), counts) for q, (_, counts) in zip(questions, cuts, strict=True)]
        lengths = [len(segment) for segment in segments]
        open_ones = list(range(len(segments)))
        for _ in range(max_new_tokens):
            if not open_ones:
                break
            visual_TH = torch.cat([visuals[number] for number in open_ones])
            tokens = self._next_tokens([segments[number] for number in open_ones], visual_TH)
            for number, token in zip(open_ones, tokens, strict=True):
                segments[number].append(token)
            open_ones = [number for number in open_ones if segments[number][-1] != self._tokenizer.im_end_id]
        answers = (segment[length:] for segment, length in zip(segments, lengths, strict=True))
        return [self._tokenizer.decode(answer, skip_special_tokens=True) for answer in answers]

    @torch.no_grad()
    def log_likelihoods(self, question: Question, candidates: Sequence[str]) -> list[float]:
        """How likely each candidate is as the whole answer to one question.

        Returns:
            natural logarithms: sums over the candidate's tokens and the end of the turn, in the candidates' order.
        """
        tiles, counts = self._cut(question)
        visual_TH = self._visual_tokens(tiles)
        segments, labels = [], []
        for candidate in candidates:
            record = _record(question, Turn("gpt", candidate))
            encoded = self._encoder.encode(record, counts, max_tokens=self._max_tokens)
            segments.append(encoded.tokens.tolist())
            labels.append([*encoded.labels[1:].tolist(), IGNORED])
        loss: PackLoss = self._model(self._batch(segments, labels), visual_TH.repeat(len(candidates), 1))
        supervised = [len(row) - row.count(IGNORED) for row in labels]
        return [-float(losses.sum()) for losses in torch.split(loss.losses_K, supervised)]

    def _next_tokens(self, segments: list[list[int]], visual_TH: torch.Tensor) -> list[int]:
        batch = self._batch(segments, [[IGNORED] * len(segment) for segment in segments])
        last_K = batch.cu_seqlens[1:].long() - 1
        chosen: list[int] = self._model.logits(batch, last_K, visual_TH).argmax(-1).tolist()
        return chosen

    def _cut(self, question: Question) -> tuple[np.ndarray, list[int]]:
        """Tiles of all images, uint8 [N, side, side, 3], and their number for each image."""
        side = self._model.geometry.vision.image_size
        budget = tiling.max_tiles_per_image(self._max_tiles, max(1, len(question.images)))
        cut = [
            tiling.tile_image(image, max_tiles=budget, tile_size=side, thumbnail=self._thumbnail)
            for image in question.images
        ]
        return np.concatenate([np.empty((0, side, side, 3), np.uint8), *cut]), [len(tiles) for tiles in cut]

    def _visual_tokens(self, tiles: np.ndarray) -> torch.Tensor:
        """[T, H]; no rows without tiles."""
        visual_TH = self._model.visual_tokens(torch.from_numpy(tiles).to(self._device))
        return visual_TH[: len(tiles) * self._model.geometry.tokens_per_tile]

    def _batch(self, segments: list[list[int]], labels: list[list[int]]) -> MicroBatch:
        tokens_S = np.concatenate(segments)
        return MicroBatch.of(
            tokens_S,
            np.concatenate(labels),
            np.ones(len(tokens_S), np.float32),
            np.cumsum([0, *map(len, segments)], dtype=np.int32),
            image_token=self._tokenizer.img_context_id,
            device=self._device,
        )


def _record(question: Question, *answer: Turn) -> Record:
    """A question in the data path's form, so that it is written exactly as in training."""
    names = tuple(f"image-{number}" for number in range(len(question.images)))
    return Record("question", (*question.turns, *answer), names)
