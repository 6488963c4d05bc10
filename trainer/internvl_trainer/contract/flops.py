"""Floating point operations of one pack, by part of the model: what MFU, the pipeline's split and the planner count.

A multiply-add is two operations. Only matrix products are counted, as is usual; norms, softmax and RoPE are not.
All figures are exact integers.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

from internvl_trainer.contract.base import Component
from internvl_trainer.contract.catalog import LanguageGeometry, ModelGeometry, VisionGeometry
from internvl_trainer.contract.job import PartitionConfig, RecomputeConfig

TYPICAL_SEGMENT = 2000
"""Tokens of a sample, averaged over the tokens of InternVL's mix: attention's share of a pack follows from it."""


@dataclass(frozen=True)
class PackLoad:
    """What one pack asks of a model, without its contents.

    `squares` is the sum of squared segment lengths: attention stays inside segments. `head_tokens` counts positions
    that meet the vocabulary.
    """

    tokens: int
    squares: int
    tiles: int
    head_tokens: int

    @classmethod
    def of_segments(cls, lengths: Sequence[int], tiles: int, head_tokens: int | None = None) -> Self:
        """A pack with segments of these lengths; by default all its positions meet the vocabulary."""
        tokens = sum(lengths)
        return cls(tokens, sum(n * n for n in lengths), tiles, tokens if head_tokens is None else head_tokens)

    @classmethod
    def full(cls, model: ModelGeometry, pack_tokens: int, pack_tiles: int) -> Self:
        """A pack at its limits, in samples of TYPICAL_SEGMENT tokens, every token of text supervised.

        Visual tokens are never supervised, and the engine computes the head at supervised positions only. A pack
        cannot hold more tiles than their visual tokens leave room for.
        """
        tiles = min(pack_tiles, pack_tokens // model.tokens_per_tile)
        squares = pack_tokens * min(pack_tokens, TYPICAL_SEGMENT)
        return cls(pack_tokens, squares, tiles, pack_tokens - tiles * model.tokens_per_tile)


@dataclass(frozen=True)
class ForwardFlops:
    """Operations of one forward pass over one pack; `layer` is one of the `layers` language layers."""

    vision: int
    projector: int
    layer: int
    layers: int
    head: int

    @property
    def language(self) -> int:
        """All language layers and the head."""
        return self.layers * self.layer + self.head

    @property
    def total(self) -> int:
        """The whole model."""
        return self.vision + self.projector + self.language

    def times(self, passes: "Passes") -> int:
        """The whole model, each part as often as `passes` says, in units of its forward pass."""
        return (
            passes.vision * self.vision
            + passes.projector * self.projector
            + passes.layers * self.layers * self.layer
            + passes.head * self.head
        )


class Passes(NamedTuple):
    """What a training step costs per part, in forward passes of that part."""

    vision: int
    projector: int
    layers: int
    head: int


def forward_flops(model: ModelGeometry, load: PackLoad) -> ForwardFlops:
    """Operations that the model's definition asks for: no padding of heads, tiles or vocabulary, nothing twice."""
    language = model.language
    return ForwardFlops(
        vision=load.tiles * tile_flops(model.vision),
        projector=_projector_flops(model, load.tiles),
        layer=layer_flops(language, load),
        layers=language.layers,
        head=2 * load.head_tokens * language.hidden * language.vocab_size,
    )


def sharded_flops(model: ModelGeometry, load: PackLoad, tensor: int, partition: PartitionConfig) -> ForwardFlops:
    """`forward_flops` as the `tensor` ranks of a tensor-parallel group do it together, with their padding.

    A vision encoder whose weights are shared gets as many heads as the ranks divide evenly (25 become 32 at 8); one
    whose tiles are shared runs for as long as the rank with the most tiles. Everything else divides alike.
    """
    whole = forward_flops(model, load)
    if partition.vision == "tiles":
        vision = _next_multiple(load.tiles, tensor) * tile_flops(model.vision)
    else:
        heads = _next_multiple(model.vision.heads, tensor)
        vision = load.tiles * tile_flops(model.vision, heads)
    return ForwardFlops(vision, whole.projector, whole.layer, whole.layers, whole.head)


def tile_flops(vision: VisionGeometry, heads: int | None = None) -> int:
    """The vision encoder's forward pass over one tile, with `heads` attention heads instead of its own, if given."""
    patches = vision.patches_per_side**2
    positions = patches + 1
    width = (heads or vision.heads) * (vision.hidden // vision.heads)
    matrices = 2 * positions * (4 * vision.hidden * width + 2 * vision.hidden * vision.ffn)
    attention = 4 * positions**2 * width
    return vision.layers * (matrices + attention) + 2 * patches * 3 * vision.patch_size**2 * vision.hidden


def layer_flops(language: LanguageGeometry, load: PackLoad) -> int:
    """One language layer's forward pass over a pack; causal attention does half of the square of each segment."""
    hidden = language.hidden
    q, kv = language.heads * language.head_dim, language.kv_heads * language.head_dim
    matrices = 2 * load.tokens * (hidden * (q + 2 * kv) + q * hidden + 3 * hidden * language.ffn)
    return matrices + 2 * load.squares * q


def model_passes(trainable: Collection[Component]) -> Passes:
    """Forward passes' worth of operations per part that training exactly these components takes.

    The forward pass is one. A trainable part adds two: gradients of its weights and of its input. A frozen part adds
    the latter alone, and only where something trainable feeds it. (The first layer of all has no input gradient to
    compute; that, as everywhere, is ignored.)
    """
    vision = 3 if Component.VISION in trainable else 1
    projector = _passes(Component.PROJECTOR in trainable, fed_by_trainable=vision > 1)
    language = _passes(Component.LANGUAGE in trainable, fed_by_trainable=projector > 1)
    return Passes(vision, projector, language, language)


def _passes(trained: bool, *, fed_by_trainable: bool) -> int:
    if trained:
        return 3
    return 2 if fed_by_trainable else 1


def hardware_passes(trainable: Collection[Component], recompute: RecomputeConfig) -> Passes:
    """`model_passes` and what is computed again.

    With `layers` each layer once; with `whole` the vision encoder and the projector once, and then each layer of the
    encoder. A frozen vision encoder keeps nothing and so computes nothing again. The head is never recomputed.
    """
    passes = model_passes(trainable)
    vision, projector = {"none": (0, 0), "layers": (1, 0), "whole": (2, 1)}[recompute.vision]
    language = 1 if recompute.language == "layers" else 0
    return Passes(
        vision=passes.vision + (vision if passes.vision > 1 else 0),
        projector=passes.projector + (projector if passes.vision > 1 else 0),
        layers=passes.layers + (language if passes.layers > 1 else 0),
        head=passes.head,
    )


def mfu(model: ModelGeometry, load: PackLoad, trainable: Collection[Component], seconds: float, peak: float) -> float:
    """Model FLOPs utilisation of training on this load: the definition's operations over what the devices could do.

    Args:
        load: what was trained on, padding excluded; the sum over packs where there were several. Its `head_tokens`
            decide which convention is meant: all tokens (as published figures count), or the supervised ones, which
            are all that the engine computes.
        trainable: the stage's own multipliers follow from it.
        seconds: wall-clock time.
        peak: operations per second of all devices together, dense, in the training dtype.
    """
    return forward_flops(model, load).times(model_passes(trainable)) / (seconds * peak)


def _projector_flops(model: ModelGeometry, tiles: int) -> int:
    hidden = model.language.hidden
    return 2 * tiles * model.tokens_per_tile * (model.projector_input * hidden + hidden * hidden)


def _next_multiple(value: int, unit: int) -> int:
    return -(-value // unit) * unit
