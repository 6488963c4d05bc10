"""Transformer Engine's attention, which chooses among flash-attn's and cuDNN's kernels by itself.

It is a core attention of megatron.core's own, so it stands beside `SegmentAttention`, not behind it.
"""

from typing import Any

from internvl_trainer.model.attention.loading import load


def transformer_engine_attention() -> Any:
    """megatron.core's class around `transformer_engine.pytorch.DotProductAttention`: packs (THD) and batches (SBHD).

    Raises:
        AttentionUnavailableError: Transformer Engine is installed and cannot be imported. megatron.core by itself
            would go on with a stand-in that fails at its first call.
    """
    load("transformer-engine", "transformer_engine.pytorch")
    from megatron.core.extensions.transformer_engine import TEDotProductAttention

    return TEDotProductAttention
