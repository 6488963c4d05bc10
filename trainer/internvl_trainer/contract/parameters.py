"""How many parameters one tensor-parallel rank holds of each part of a model, padding included."""

from dataclasses import dataclass

from internvl_trainer.contract.catalog import LanguageGeometry, ModelGeometry, VisionGeometry
from internvl_trainer.contract.job import PartitionConfig


@dataclass(frozen=True)
class RankParameters:
    """Parameters per rank. `layer` is one language layer; `head` is the output head with the norm before it."""

    vision: int
    projector: int
    embedding: int
    layer: int
    head: int


def rank_parameters(model: ModelGeometry, tensor: int = 1, partition: PartitionConfig | None = None) -> RankParameters:
    """What each of `tensor` tensor-parallel ranks holds.

    Matrices and the vocabulary are shared; norms, biases of row-parallel layers and the patch embedding are not. Heads
    are padded to a multiple of the ranks, key-value heads repeated up to one per rank. A vision encoder whose tiles are
    shared is whole on each rank.
    """
    tiles = partition is not None and partition.vision == "tiles"
    hidden = model.language.hidden
    vocabulary = share(model.language.vocab_size, tensor) * hidden
    projector = (
        2 * model.projector_input
        + share(hidden, tensor) * (model.projector_input + 1)
        + share(hidden, tensor) * hidden
        + hidden
    )
    return RankParameters(
        vision=_vision(model.vision, 1 if tiles else tensor),
        projector=projector,
        embedding=vocabulary,
        layer=_language_layer(model.language, tensor),
        head=vocabulary + hidden,
    )


def share(count: int, ranks: int) -> int:
    """The largest rank's part of `count` equal things."""
    return -(-count // ranks)


def _vision(vision: VisionGeometry, tensor: int) -> int:
    hidden, ffn = vision.hidden, share(vision.ffn, tensor)
    width = share(vision.heads, tensor) * (hidden // vision.heads)
    attention = (
        4 * hidden * width + hidden + (3 * width if vision.qkv_bias else 0) + (2 * width if vision.qk_norm else 0)
    )
    mlp = 2 * hidden * ffn + ffn + hidden
    norms = 2 * hidden * (2 if vision.norm == "layernorm" else 1)
    layer_scale = 2 * hidden
    positions = vision.patches_per_side**2 + 1
    embedding = hidden * (3 * vision.patch_size**2 + 1) + hidden + positions * hidden
    return vision.layers * (attention + mlp + norms + layer_scale) + embedding


def _language_layer(language: LanguageGeometry, tensor: int) -> int:
    hidden = language.hidden
    q = share(language.heads, tensor) * language.head_dim
    kv = share(language.kv_heads, tensor) * language.head_dim
    qkv = (q + 2 * kv) * (hidden + (1 if language.qkv_bias else 0))
    return qkv + q * hidden + 3 * hidden * share(language.ffn, tensor) + 2 * hidden
