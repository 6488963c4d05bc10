"""Qwen2.5: how its tensors are called and arranged. Both layouts have it as `Qwen2ForCausalLM` does."""

from internvl_trainer.contract.base import Component
from internvl_trainer.contract.catalog import LanguageGeometry
from internvl_trainer.contract.tensors import prefix_of
from internvl_trainer.convert.mapping import Row, Stack, Table
from internvl_trainer.convert.transforms import GroupedQKV, Same, Stacked, Transform

EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"
FINAL_NORM = "model.norm.weight"
LAYER = "model.layers.{i}."
INPUT_NORM = "input_layernorm.weight"
MLP_NORM = "post_attention_layernorm.weight"
ATTENTION_OUT = "self_attn.o_proj.weight"
GATE_AND_UP = Stacked(("mlp.gate_proj.weight", "mlp.up_proj.weight"))
DOWN = "mlp.down_proj.weight"


def qkv(language: LanguageGeometry, kind: str) -> GroupedQKV:
    """Query, key and value projections; `kind` is weight or bias."""
    names = (f"self_attn.q_proj.{kind}", f"self_attn.k_proj.{kind}", f"self_attn.v_proj.{kind}")
    return GroupedQKV(names, groups=language.kv_heads, head_dim=language.head_dim)


def table(language: LanguageGeometry) -> Table:
    """All tensors of a Qwen2.5 of this geometry."""
    hidden, ffn = language.hidden, language.ffn
    queries = language.heads * language.head_dim
    fused = queries + 2 * language.kv_heads * language.head_dim
    rows = (
        _row("embedding.word_embeddings.weight", (language.vocab_size, hidden), Same(EMBEDDING)),
        _row("decoder.final_layernorm.weight", (hidden,), Same(FINAL_NORM)),
        _row("output_layer.weight", (language.vocab_size, hidden), Same(HEAD)),
    )
    layer = [
        _row("input_layernorm.weight", (hidden,), Same(INPUT_NORM)),
        _row("self_attention.linear_qkv.weight", (fused, hidden), qkv(language, "weight")),
        _row("self_attention.linear_proj.weight", (hidden, queries), Same(ATTENTION_OUT)),
        _row("pre_mlp_layernorm.weight", (hidden,), Same(MLP_NORM)),
        _row("mlp.linear_fc1.weight", (2 * ffn, hidden), GATE_AND_UP),
        _row("mlp.linear_fc2.weight", (hidden, ffn), Same(DOWN)),
    ]
    if language.qkv_bias:
        layer.append(_row("self_attention.linear_qkv.bias", (fused,), qkv(language, "bias")))
    stack = Stack(language.layers, "decoder.layers.", LAYER, LAYER, tuple(layer))
    return Table(prefix_of(Component.LANGUAGE), "language_model.", "language_model.", rows, stack)


def _row(key: str, shape: tuple[int, ...], transform: Transform) -> Row:
    return Row(key, shape, native=transform, transformers=transform)
