"""Names and shapes of the published checkpoints (`InternVLChatModel`), in their order: pure, torch-free.

Source: the published modelling code's module names; the tables that it gives for all seven sizes are in tests/golden.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from internvl_trainer.contract.base import Component
from internvl_trainer.contract.tensors import Shape

if TYPE_CHECKING:
    from internvl_trainer.contract.catalog import LanguageGeometry, ModelGeometry, VisionGeometry

PREFIXES = {
    Component.VISION: "vision_model.",
    Component.LANGUAGE: "language_model.",
    Component.PROJECTOR: "mlp1.",
}
"""First segment of every name, per component, in the order in which the components are stored."""

type Named = Iterator[tuple[str, Shape]]


def shapes(model: "ModelGeometry", component: Component) -> dict[str, Shape]:
    """Name -> shape of one component's tensors."""
    if component is Component.VISION:
        rows = _vision(model.vision)
    elif component is Component.PROJECTOR:
        rows = _projector(model.projector_input, model.language.hidden)
    else:
        rows = {"qwen2.5": _qwen2, "internlm2.5": _internlm2}[model.language.family](model.language)
    return {PREFIXES[component] + name: shape for name, shape in rows}


def _vision(vision: "VisionGeometry") -> Named:
    hidden, ffn, patch = vision.hidden, vision.ffn, vision.patch_size
    yield "embeddings.class_embedding", (1, 1, hidden)
    yield "embeddings.position_embedding", (1, 1 + vision.patches_per_side**2, hidden)
    yield "embeddings.patch_embedding.weight", (hidden, 3, patch, patch)
    yield "embeddings.patch_embedding.bias", (hidden,)
    for layer in range(vision.layers):
        prefix = f"encoder.layers.{layer}."
        yield prefix + "ls1", (hidden,)
        yield prefix + "ls2", (hidden,)
        yield from _linear(prefix + "attn.qkv", 3 * hidden, hidden, bias=vision.qkv_bias)
        if vision.qk_norm:
            yield prefix + "attn.q_norm.weight", (hidden,)
            yield prefix + "attn.k_norm.weight", (hidden,)
        yield from _linear(prefix + "attn.proj", hidden, hidden)
        yield from _linear(prefix + "mlp.fc1", ffn, hidden)
        yield from _linear(prefix + "mlp.fc2", hidden, ffn)
        for norm in ("norm1", "norm2"):
            yield f"{prefix}{norm}.weight", (hidden,)
            if vision.norm == "layernorm":
                yield f"{prefix}{norm}.bias", (hidden,)


def _qwen2(language: "LanguageGeometry") -> Named:
    hidden, ffn = language.hidden, language.ffn
    queries, keys = language.heads * language.head_dim, language.kv_heads * language.head_dim
    yield "model.embed_tokens.weight", (language.vocab_size, hidden)
    for layer in range(language.layers):
        prefix = f"model.layers.{layer}."
        for name, rows in (("q", queries), ("k", keys), ("v", keys)):
            yield from _linear(f"{prefix}self_attn.{name}_proj", rows, hidden, bias=language.qkv_bias)
        yield prefix + "self_attn.o_proj.weight", (hidden, queries)
        yield prefix + "mlp.gate_proj.weight", (ffn, hidden)
        yield prefix + "mlp.up_proj.weight", (ffn, hidden)
        yield prefix + "mlp.down_proj.weight", (hidden, ffn)
        yield prefix + "input_layernorm.weight", (hidden,)
        yield prefix + "post_attention_layernorm.weight", (hidden,)
    yield "model.norm.weight", (hidden,)
    yield "lm_head.weight", (language.vocab_size, hidden)


def _internlm2(language: "LanguageGeometry") -> Named:
    hidden, ffn = language.hidden, language.ffn
    queries, keys = language.heads * language.head_dim, language.kv_heads * language.head_dim
    yield "model.tok_embeddings.weight", (language.vocab_size, hidden)
    for layer in range(language.layers):
        prefix = f"model.layers.{layer}."
        yield from _linear(prefix + "attention.wqkv", queries + 2 * keys, hidden, bias=language.qkv_bias)
        yield prefix + "attention.wo.weight", (hidden, queries)
        yield prefix + "feed_forward.w1.weight", (ffn, hidden)
        yield prefix + "feed_forward.w3.weight", (ffn, hidden)
        yield prefix + "feed_forward.w2.weight", (hidden, ffn)
        yield prefix + "attention_norm.weight", (hidden,)
        yield prefix + "ffn_norm.weight", (hidden,)
    yield "model.norm.weight", (hidden,)
    yield "output.weight", (language.vocab_size, hidden)


def _projector(width: int, hidden: int) -> Named:
    yield "0.weight", (width,)
    yield "0.bias", (width,)
    yield from _linear("1", hidden, width)
    yield from _linear("3", hidden, hidden)


def _linear(name: str, rows: int, columns: int, *, bias: bool = True) -> Named:
    yield f"{name}.weight", (rows, columns)
    if bias:
        yield f"{name}.bias", (rows,)
