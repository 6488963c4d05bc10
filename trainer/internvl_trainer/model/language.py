"""The language model: megatron.core's GPTModel in Qwen2.5 and InternLM2.5 geometries, and its loss.

Shapes: K supervised or chosen tokens of a pack, V vocabulary columns of this rank, H hidden.
"""

from functools import partial
from typing import Any

import torch
from megatron.core import tensor_parallel
from megatron.core.fusions.fused_bias_dropout import get_bias_dropout_add
from megatron.core.models.gpt import GPTModel
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer.attention import SelfAttention, SelfAttentionSubmodules
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.mlp import MLP, MLPSubmodules
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules, get_num_layers_to_build
from megatron.core.transformer.transformer_config import TransformerConfig
from megatron.core.transformer.transformer_layer import TransformerLayer, TransformerLayerSubmodules

from internvl_trainer.contract.catalog import LanguageGeometry
from internvl_trainer.model.attention import TORCH, Backends, language_attention
from internvl_trainer.model.config import padded_vocab_size
from internvl_trainer.model.loss import PackLoss, hidden_at, linear_cross_entropy
from internvl_trainer.model.norm import norm
from internvl_trainer.model.rotary import RotaryAttention
from internvl_trainer.model.swiglu import SwiGLU


def language_layer_spec(attention: Backends) -> ModuleSpec:
    """How one decoder layer is built: RMSNorm, causal attention inside a segment with RoPE, SwiGLU."""
    self_attention = SelfAttentionSubmodules(
        linear_qkv=ColumnParallelLinear,
        core_attention=partial(RotaryAttention, core=language_attention(attention)),
        linear_proj=RowParallelLinear,
    )
    return ModuleSpec(
        TransformerLayer,
        submodules=TransformerLayerSubmodules(
            input_layernorm=norm,
            self_attention=ModuleSpec(SelfAttention, {"attn_mask_type": AttnMaskType.causal}, self_attention),
            self_attn_bda=get_bias_dropout_add,
            pre_mlp_layernorm=norm,
            mlp=partial(
                MLP.as_mlp_submodule,
                submodules=MLPSubmodules(
                    linear_fc1=ColumnParallelLinear, linear_fc2=RowParallelLinear, activation_func=SwiGLU
                ),
            ),
            mlp_bda=get_bias_dropout_add,
        ),
    )


def build_language_model(
    config: TransformerConfig,
    geometry: LanguageGeometry,
    *,
    first_stage: bool,
    last_stage: bool,
    attention: Backends = TORCH,
) -> GPTModel:
    """This pipeline stage's part of the language model, with untied embedding and head."""
    groups = ProcessGroupCollection.use_mpu_process_groups()
    layers = [language_layer_spec(attention)] * get_num_layers_to_build(config, pp_rank=groups.pp.rank())
    return GPTModel(
        config,
        TransformerBlockSubmodules(layer_specs=layers, layer_norm=norm),
        vocab_size=padded_vocab_size(geometry.vocab_size, config.tensor_model_parallel_size),
        max_sequence_length=geometry.max_positions,
        pre_process=first_stage,
        post_process=last_stage,
        share_embeddings_and_output_weights=False,
        position_embedding_type="none",  # RoPE is in the layers' core attention
        # InternVLModel puts visual tokens among the embedded ones first.
        scatter_embedding_sequence_parallel=False,
        pg_collection=groups,
    )


class SupervisedLoss:
    """Weighted cross entropy of the supervised positions only: other positions never meet the vocabulary.

    An instance is handed to GPTModel as its `output_processor`. With few answer tokens per pack this saves most of
    the head's compute.
    """

    def __init__(self, vocab_size: int, positions_K: torch.Tensor, targets_K: torch.Tensor, weights_K: torch.Tensor):
        self.vocab_size = vocab_size
        self.positions_K = positions_K
        self.targets_K = targets_K
        self.weights_K = weights_K

    def __call__(self, *, hidden_states: torch.Tensor, output_layer: ColumnParallelLinear, **_: Any) -> PackLoss:
        """Cross entropy in float32; the columns that pad the vocabulary stay out of the softmax."""
        return linear_cross_entropy(
            hidden_at(hidden_states, output_layer, self.positions_K),
            output_layer.weight,
            self.targets_K,
            self.weights_K,
            vocab_size=self.vocab_size,
            group=output_layer.tp_group,
        )


class LogitsAt:
    """Logits of chosen positions over the whole vocabulary, as GPTModel's `output_processor`."""

    def __init__(self, vocab_size: int, positions_K: torch.Tensor):
        self.vocab_size = vocab_size
        self.positions_K = positions_K

    def __call__(self, *, hidden_states: torch.Tensor, output_layer: ColumnParallelLinear, **_: Any) -> torch.Tensor:
        """float32 [K, vocab_size]."""
        hidden_KH = hidden_at(hidden_states, output_layer, self.positions_K)
        logits_KV = torch.nn.functional.linear(hidden_KH, output_layer.weight).float()
        gathered = tensor_parallel.gather_from_tensor_model_parallel_region(logits_KV)
        return gathered[:, : self.vocab_size]
