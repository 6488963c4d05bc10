"""InternLM2.5: how its tensors are called and arranged in each layout.

The native layout has it under names of its own, with q, k and v fused in megatron's row order. transformers has no
InternLM2; it computes what a Llama does, and that is what the transformers layout has it as.
"""

from internvl_trainer.contract.base import Component
from internvl_trainer.contract.catalog import LanguageGeometry
from internvl_trainer.contract.tensors import prefix_of
from internvl_trainer.convert import qwen2 as llama
from internvl_trainer.convert.mapping import Row, Stack, Table
from internvl_trainer.convert.transforms import Same, Stacked


def table(language: LanguageGeometry) -> Table:
    """All tensors of an InternLM2.5 of this geometry."""
    hidden, ffn, vocab = language.hidden, language.ffn, language.vocab_size
    queries = language.heads * language.head_dim
    fused = queries + 2 * language.kv_heads * language.head_dim
    rows = (
        Row(
            "embedding.word_embeddings.weight",
            (vocab, hidden),
            Same("model.tok_embeddings.weight"),
            Same(llama.EMBEDDING),
        ),
        Row("decoder.final_layernorm.weight", (hidden,), Same("model.norm.weight"), Same(llama.FINAL_NORM)),
        Row("output_layer.weight", (vocab, hidden), Same("output.weight"), Same(llama.HEAD)),
    )
    layer = [
        Row("input_layernorm.weight", (hidden,), Same("attention_norm.weight"), Same(llama.INPUT_NORM)),
        Row(
            "self_attention.linear_qkv.weight",
            (fused, hidden),
            Same("attention.wqkv.weight"),
            llama.qkv(language, "weight"),
        ),
        Row(
            "self_attention.linear_proj.weight",
            (hidden, queries),
            Same("attention.wo.weight"),
            Same(llama.ATTENTION_OUT),
        ),
        Row("pre_mlp_layernorm.weight", (hidden,), Same("ffn_norm.weight"), Same(llama.MLP_NORM)),
        Row(
            "mlp.linear_fc1.weight",
            (2 * ffn, hidden),
            Stacked(("feed_forward.w1.weight", "feed_forward.w3.weight")),
            llama.GATE_AND_UP,
        ),
        Row("mlp.linear_fc2.weight", (hidden, ffn), Same("feed_forward.w2.weight"), Same(llama.DOWN)),
    ]
    if language.qkv_bias:
        bias = "self_attention.linear_qkv.bias"
        layer.append(Row(bias, (fused,), Same("attention.wqkv.bias"), llama.qkv(language, "bias")))
    stack = Stack(language.layers, "decoder.layers.", "model.layers.{i}.", llama.LAYER, tuple(layer))
    return Table(prefix_of(Component.LANGUAGE), "language_model.", "language_model.", rows, stack)
