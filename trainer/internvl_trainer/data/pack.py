"""One pack: what a micro-batch trains on, and how samples that turn out unreadable are taken out of it. Pure.

Shapes: S tokens of a pack, N tiles, H and W a tile's height and width, C = 3 colours.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np

from internvl_trainer.data.conversations import IGNORED
from internvl_trainer.data.errors import BadSampleError
from internvl_trainer.data.loss_weights import LossReweighting, token_weights
from internvl_trainer.data.samples import Sample

LeftOut = tuple[tuple[int, ...], tuple[BadSampleError, ...]]
"""`Pack.masked` and `Pack.skipped`."""


FILLER = 0
"""Token of a pack that has lost all its samples, the same on the rank that found it out and on those that are told. No
vocabulary has `<IMG_CONTEXT>` there, since it is added behind the language model's own tokens."""


@dataclass(frozen=True, eq=False)
class Pack:
    """Whole samples, one after the other, each a segment of its own.

    A pack that has lost all its samples is one segment of one token that nothing is learned from, without tiles.
    """

    index: int
    """Position in the global order."""
    sample_ids: tuple[str, ...]
    tokens_S: np.ndarray
    """int64[S]: input ids, `<IMG_CONTEXT>` placeholders inside."""
    labels_S: np.ndarray
    """int64[S]: the token to predict at each position, shifted inside its segment; -100 where none is learned."""
    weights_S: np.ndarray
    """float32[S]: loss weight of each position, 0 where the label is -100."""
    cu_seqlens: np.ndarray
    """int32[segments + 1]: where segments begin and end."""
    tiles_NHWC: np.ndarray | None
    """uint8[N, tile, tile, 3] in the order of the placeholders; None when asked for without pixels."""
    segment_tiles: tuple[int, ...]
    """Tiles of each segment, known without pixels."""
    masked: tuple[int, ...] = ()
    """Which of the samples that the pack was formed of are left out, as ascending positions among them."""
    skipped: tuple[BadSampleError, ...] = ()
    """Why samples were left out, as far as the process that loaded this pack found it out."""

    @property
    def tile_count(self) -> int:
        """N; 0 for a pack of text."""
        return sum(self.segment_tiles)

    @property
    def formed_of(self) -> int:
        """Samples that the pack was formed of, those that are left out included."""
        return len(self.sample_ids) + len(self.masked)

    def without(self, samples: Collection[int]) -> "Pack":
        """The same pack with the segments of some samples gone; nothing else moves.

        Args:
            samples: positions among the samples that the pack was formed of. Those that are gone already stay so.

        Raises:
            IndexError: a position that the pack was not formed of.
        """
        if beyond := [sample for sample in samples if not 0 <= sample < self.formed_of]:
            raise IndexError(f"pack {self.index} was formed of {self.formed_of} samples; there is no {beyond[0]}")
        masked = tuple(sorted({*self.masked, *samples}))
        there = [sample for sample in range(self.formed_of) if sample not in self.masked]
        stays = np.array([sample not in masked for sample in there], dtype=bool)
        if stays.all():
            return self
        side = None if self.tiles_NHWC is None else self.tiles_NHWC.shape[1]
        if not stays.any():
            return blank(self.index, side, (masked, self.skipped))
        lengths = np.diff(self.cu_seqlens)
        stays_S = np.repeat(stays, lengths)
        stays_N = np.repeat(stays, self.segment_tiles)
        return replace(
            self,
            sample_ids=_chosen(self.sample_ids, stays),
            tokens_S=self.tokens_S[stays_S],
            labels_S=self.labels_S[stays_S],
            weights_S=self.weights_S[stays_S],
            cu_seqlens=_bounds(lengths[stays]),
            tiles_NHWC=None if self.tiles_NHWC is None else self.tiles_NHWC[stays_N],
            segment_tiles=_chosen(self.segment_tiles, stays),
            masked=masked,
        )


def assemble(
    index: int,
    samples: Sequence[Sample],
    mode: LossReweighting,
    tiles_NHWC: np.ndarray | None,
    left_out: LeftOut,
) -> Pack:
    """The pack of these samples, at least one, in their order.

    Args:
        index: position in the global order.
        mode: how a token's loss weight follows from its sample.
        tiles_NHWC: of all samples, in their order.
        left_out: what could not be read.
    """
    labels, weights = [], []
    for sample in samples:
        # Position t predicts token t + 1 of its own segment; a segment's last position predicts nothing.
        label_s = np.asarray([*sample.encoded.labels[1:], IGNORED], dtype=np.int64)
        weight = token_weights(sample.encoded.supervised, mode)
        labels.append(label_s)
        weights.append(np.where(label_s == IGNORED, 0.0, weight).astype(np.float32))
    return Pack(
        index=index,
        sample_ids=tuple(sample.record.name for sample in samples),
        tokens_S=np.concatenate([np.asarray(sample.encoded.tokens, dtype=np.int64) for sample in samples]),
        labels_S=np.concatenate(labels),
        weights_S=np.concatenate(weights),
        cu_seqlens=_bounds([len(sample.encoded.tokens) for sample in samples]),
        tiles_NHWC=tiles_NHWC,
        segment_tiles=tuple(sum(sample.tiles) for sample in samples),
        masked=left_out[0],
        skipped=left_out[1],
    )


def blank(index: int, side: int | None, left_out: LeftOut) -> Pack:
    """A pack that has lost all its samples.

    Args:
        side: of a tile, in pixels; None for a pack without pixels.
        left_out: all its samples.
    """
    return Pack(
        index=index,
        sample_ids=(),
        tokens_S=np.array([FILLER], dtype=np.int64),
        labels_S=np.array([IGNORED], dtype=np.int64),
        weights_S=np.zeros(1, dtype=np.float32),
        cu_seqlens=np.array([0, 1], dtype=np.int32),
        tiles_NHWC=None if side is None else np.empty((0, side, side, 3), dtype=np.uint8),
        segment_tiles=(0,),
        masked=left_out[0],
        skipped=left_out[1],
    )


def _bounds(lengths: Sequence[int] | np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)


def _chosen[T](values: Sequence[T], stays: np.ndarray) -> tuple[T, ...]:
    return tuple(value for value, stay in zip(values, stays, strict=True) if stay)
