"""Packs at their limits, made by formula: the same for every contender, without files.

Shapes: S tokens of a pack, s tokens of a sample, N tiles, side px.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from internvl_trainer.contract.catalog import ModelGeometry
from internvl_trainer.data.loss_weights import token_weights
from internvl_trainer.data.pack import Pack

IMAGE_TOKEN = 7
"""Id of `<IMG_CONTEXT>`; no other token of these packs has it."""
IGNORED = -100
ANSWER_SHARE = 0.5
"""Supervised part of a sample's text."""


@dataclass(frozen=True)
class Workload:
    """What a pack holds: exactly `tokens` tokens and `tiles` tiles, in samples of about `sample_tokens`."""

    model: ModelGeometry
    tokens: int
    tiles: int
    sample_tokens: int

    def __post_init__(self) -> None:
        text = self.tokens - self.tiles * self.model.tokens_per_tile
        if text < 4 * self.samples:
            raise ValueError(
                f"{self.tiles} tiles x {self.model.tokens_per_tile} visual tokens leave {text} of {self.tokens} tokens "
                f"for the text of {self.samples} samples, which need 4 each; use fewer tiles or more tokens"
            )

    @property
    def samples(self) -> int:
        """Samples per pack."""
        return max(1, round(self.tokens / self.sample_tokens))

    def pack(self, index: int) -> Pack:
        """Pack number `index`, loss weights by square averaging. Samples differ in tiles and in length of text."""
        draw = np.random.default_rng(index)
        tiles = _shares(draw, self.tiles, self.samples)
        texts = _shares(draw, self.tokens - self.tiles * self.model.tokens_per_tile, self.samples, least=4)
        parts = [self._sample(draw, int(n), int(text)) for n, text in zip(tiles, texts, strict=True)]
        tokens, labels, weights = (np.concatenate(column) for column in zip(*parts, strict=True))
        side = self.model.vision.image_size
        return Pack(
            index=index,
            sample_ids=tuple(f"pack-{index}-sample-{number}" for number in range(self.samples)),
            tokens_S=tokens,
            labels_S=labels,
            weights_S=weights,
            cu_seqlens=np.cumsum([0, *(len(part[0]) for part in parts)]).astype(np.int32),
            tiles_NHWC=draw.integers(0, 256, (self.tiles, side, side, 3), dtype=np.uint8),
            segment_tiles=tuple(tiles.tolist()),
        )

    def _sample(self, draw: np.random.Generator, tiles: int, text: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Visual tokens, a question and an answer."""
        visual = np.full(tiles * self.model.tokens_per_tile, IMAGE_TOKEN)
        words = draw.integers(IMAGE_TOKEN + 1, self.model.language.vocab_size, text)
        tokens_s = np.concatenate([visual, words]).astype(np.int64)
        answer = max(1, int(text * ANSWER_SHARE))
        labels_s = np.full(len(tokens_s), IGNORED, dtype=np.int64)
        labels_s[-answer - 1 : -1] = tokens_s[-answer:]
        weights_s = np.where(labels_s == IGNORED, 0.0, token_weights(answer, "square")).astype(np.float32)
        return tokens_s, labels_s, weights_s


@dataclass(frozen=True, eq=False)
class Sample:
    """One sample of a pack, by itself. `labels_s` are the tokens themselves where supervised, not shifted."""

    tokens_s: np.ndarray
    labels_s: np.ndarray
    tiles_NHWC: np.ndarray


def unpacked(pack: Pack, tokens_per_tile: int) -> Iterator[Sample]:
    """The samples of a pack, in order, each with its own tiles."""
    assert pack.tiles_NHWC is not None
    first_tile = 0
    for begin, end in zip(pack.cu_seqlens[:-1], pack.cu_seqlens[1:], strict=True):
        tokens_s = pack.tokens_S[begin:end]
        tiles = int((tokens_s == IMAGE_TOKEN).sum()) // tokens_per_tile
        # A pack's label is of the next token; the last position of a segment has none.
        labels_s = np.concatenate([[IGNORED], pack.labels_S[begin : end - 1]])
        yield Sample(tokens_s, labels_s, pack.tiles_NHWC[first_tile : first_tile + tiles])
        first_tile += tiles


def _shares(draw: np.random.Generator, total: int, parts: int, least: int = 0) -> np.ndarray:
    """`total` in `parts` uneven whole numbers of at least `least`; a part is seldom twice the mean."""
    weights = draw.uniform(0.3, 1.7, parts)
    bounds = np.floor(np.cumsum(weights) / weights.sum() * (total - least * parts)).astype(int)
    bounds[-1] = total - least * parts
    return np.diff([0, *bounds]) + least
