"""The models that a run can name: geometry as frozen data, torch-free.

Sources: the InternVL-2.5 report (arXiv 2412.05271, table 1) and the published config.json files. The two `tiny-`
entries have the same parts at a size that trains on two CPU cores in seconds; demo and tests use them.
"""

from math import prod
from typing import Literal

from pydantic import Field

from internvl_trainer.contract import native_layout, tokens
from internvl_trainer.contract.base import Component, Contract
from internvl_trainer.contract.tensors import Shape


class VisionGeometry(Contract):
    """An InternViT: patch embedding, class token, `layers` pre-norm blocks with layer scale, no final norm."""

    layers: int = Field(ge=1)
    hidden: int = Field(ge=1)
    heads: int = Field(ge=1)
    ffn: int = Field(ge=1)
    image_size: int = Field(default=448, ge=14, description="side of one tile, pixels")
    patch_size: int = Field(default=14, ge=1)
    norm: Literal["layernorm", "rmsnorm"] = "layernorm"
    norm_eps: float = 1e-6
    qkv_bias: bool = True
    qk_norm: bool = Field(default=False, description="RMSNorm over the whole hidden width of q and of k")
    layer_scale_init: float = 0.1

    @property
    def patches_per_side(self) -> int:
        """Patches along one side of a tile."""
        return self.image_size // self.patch_size


class LanguageGeometry(Contract):
    """A decoder with RMSNorm, SwiGLU, grouped-query attention, RoPE (NeoX halves) and an untied output head."""

    family: Literal["qwen2.5", "internlm2.5"]
    layers: int = Field(ge=1)
    hidden: int = Field(ge=1)
    heads: int = Field(ge=1)
    kv_heads: int = Field(ge=1)
    head_dim: int = Field(ge=1)
    ffn: int = Field(ge=1)
    vocab_size: int = Field(ge=1, description="rows of the embedding in the published checkpoint, not padded for TP")
    rope_theta: float = 1e6
    norm_eps: float = 1e-6
    qkv_bias: bool = True
    max_positions: int = 32768

    @property
    def tokenizer(self) -> tokens.TokenizerFacts:
        """Special tokens of the family's released tokenizer."""
        return tokens.of(self.family)


class ModelGeometry(Contract):
    """ViT, pixel-unshuffle MLP projector and LLM of one InternVL model."""

    name: str
    vision: VisionGeometry
    language: LanguageGeometry
    downsample_ratio: float = Field(default=0.5, description="pixel unshuffle: 0.5 merges 2x2 patches into one token")
    projector_norm_eps: float = 1e-5

    @property
    def tokens_per_tile(self) -> int:
        """`<IMG_CONTEXT>` placeholders per tile: 256 for a 448 px tile of 14 px patches at ratio 0.5."""
        return int((self.vision.patches_per_side * self.downsample_ratio) ** 2)

    @property
    def projector_input(self) -> int:
        """Width of the projector's input after pixel unshuffle."""
        return self.vision.hidden * round(1 / self.downsample_ratio) ** 2

    def state_dict_shapes(self, component: Component | None = None) -> dict[str, Shape]:
        """Name -> shape of every tensor of the published checkpoint, or of one component's, in its order."""
        chosen = native_layout.PREFIXES if component is None else (component,)
        return {name: shape for each in chosen for name, shape in native_layout.shapes(self, each).items()}

    def parameter_count(self, component: Component | None = None) -> int:
        """Parameters of the whole model or of one component; embedding and head are two, at every size."""
        return sum(prod(shape) for shape in self.state_dict_shapes(component).values())


INTERN_VIT_300M = VisionGeometry(layers=24, hidden=1024, heads=16, ffn=4096)
INTERN_VIT_6B = VisionGeometry(
    layers=45, hidden=3200, heads=25, ffn=12800, norm="rmsnorm", qkv_bias=False, qk_norm=True
)
TINY_VIT = VisionGeometry(layers=4, hidden=96, heads=4, ffn=384, image_size=112)


def _qwen(layers: int, hidden: int, heads: int, kv_heads: int, head_dim: int, ffn: int) -> LanguageGeometry:
    return LanguageGeometry(
        family="qwen2.5", layers=layers, hidden=hidden, heads=heads, kv_heads=kv_heads, head_dim=head_dim, ffn=ffn,
        vocab_size=151674,
    )  # fmt: skip


def _internlm(layers: int, hidden: int, heads: int, ffn: int, rope_theta: float = 1e6) -> LanguageGeometry:
    return LanguageGeometry(
        family="internlm2.5", layers=layers, hidden=hidden, heads=heads, kv_heads=8, head_dim=128, ffn=ffn,
        vocab_size=92553, rope_theta=rope_theta, norm_eps=1e-5, qkv_bias=False,
    )  # fmt: skip


def _tiny_language(layers: int, hidden: int) -> LanguageGeometry:
    return LanguageGeometry(
        family="qwen2.5", layers=layers, hidden=hidden, heads=hidden // 32, kv_heads=2, head_dim=32,
        ffn=hidden * 3, vocab_size=2048, max_positions=4096,
    )  # fmt: skip


MODELS: dict[str, ModelGeometry] = {
    model.name: model
    for model in (
        ModelGeometry(name="InternVL2_5-1B", vision=INTERN_VIT_300M, language=_qwen(24, 896, 14, 2, 64, 4864)),
        ModelGeometry(name="InternVL2_5-2B", vision=INTERN_VIT_300M, language=_internlm(24, 2048, 16, 8192)),
        ModelGeometry(name="InternVL2_5-4B", vision=INTERN_VIT_300M, language=_qwen(36, 2048, 16, 2, 128, 11008)),
        ModelGeometry(name="InternVL2_5-8B", vision=INTERN_VIT_300M, language=_internlm(32, 4096, 32, 14336)),
        ModelGeometry(name="InternVL2_5-26B", vision=INTERN_VIT_6B, language=_internlm(48, 6144, 48, 16384, 5e7)),
        ModelGeometry(name="InternVL2_5-38B", vision=INTERN_VIT_6B, language=_qwen(64, 5120, 40, 8, 128, 27648)),
        ModelGeometry(name="InternVL2_5-78B", vision=INTERN_VIT_6B, language=_qwen(80, 8192, 64, 8, 128, 29568)),
        ModelGeometry(name="tiny-8b-like", vision=TINY_VIT, language=_tiny_language(2, 192)),
        ModelGeometry(name="tiny-1b-like", vision=TINY_VIT, language=_tiny_language(2, 128)),
    )
}


class UnknownModelError(KeyError):
    """A model name that the catalogue does not have."""

    def __init__(self, name: str) -> None:
        super().__init__(f"model {name!r} is not in the catalogue; known models: {', '.join(MODELS)}")

    def __str__(self) -> str:
        return str(self.args[0])


def get(name: str) -> ModelGeometry:
    """The geometry of a named model.

    Raises:
        UnknownModelError: names the models that exist.
    """
    try:
        return MODELS[name]
    except KeyError:
        raise UnknownModelError(name) from None
