"""The language model: megatron.core's GPTModel in Qwen2.5 and InternLM2.5 geometries, and its loss.

Shapes: S tokens of a pack, K supervised tokens, V vocabulary columns of this rank, H hidden.
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
from internvl_trainer.model.norm import norm


def language_layer_spec(attention: Backends) -> ModuleSpec:
    """How one decoder layer is built: RMSNorm, causal attention inside a segment, SwiGLU."""
    self_attention = SelfAttentionSubmodules(
        linear_qkv=ColumnParallelLinear, core_attention=language_attention(attention), linear_proj=RowParallelLinear
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
                submodules=MLPSubmodules(linear_fc1=ColumnParallelLinear, linear_fc2=RowParallelLinear),
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
        position_embedding_type="rope",
        rotary_base=geometry.rope_theta,
        # InternVLModel puts visual tokens among the embedded ones first.
        scatter_embedding_sequence_parallel=False,
        pg_collection=groups,
    )


class SupervisedLoss:
    """Cross entropy of the supervised positions only: other positions never meet the vocabulary.

    An instance is handed to GPTModel as its `output_processor`. With few answer tokens per pack this saves most of
    the head's compute and nearly all of the memory of its logits.
    """

    def __init__(self, vocab_size: int, positions_K: torch.Tensor, targets_K: torch.Tensor):
        self.vocab_size = vocab_size
        self.positions_K = positions_K
        self.targets_K = targets_K

    def __call__(self, *, hidden_states: torch.Tensor, output_layer: ColumnParallelLinear, **_: Any) -> torch.Tensor:
        """Cross entropy in float32, [K]; the columns that pad the vocabulary stay out of the softmax."""
        logits_K1V = logits_at(hidden_states, output_layer, self.positions_K, self.vocab_size)
        loss_K1 = tensor_parallel.vocab_parallel_cross_entropy(logits_K1V, self.targets_K[:, None])
        return loss_K1.squeeze(1)


class LogitsAt:
    """Logits of chosen positions over the whole vocabulary, as GPTModel's `output_processor`."""

    def __init__(self, vocab_size: int, positions_K: torch.Tensor):
        self.vocab_size = vocab_size
        self.positions_K = positions_K

    def __call__(self, *, hidden_states: torch.Tensor, output_layer: ColumnParallelLinear, **_: Any) -> torch.Tensor:
        """float32 [K, vocab_size]."""
        logits_K1V = logits_at(hidden_states, output_layer, self.positions_K, self.vocab_size)
        gathered = tensor_parallel.gather_from_tensor_model_parallel_region(logits_K1V)
        return gathered.squeeze(1)[:, : self.vocab_size]


def logits_at(
    hidden_S1H: torch.Tensor, output_layer: ColumnParallelLinear, positions_K: torch.Tensor, vocab_size: int
) -> torch.Tensor:
    """This rank's logits [K, 1, V] in float32 at some positions, -inf in the columns that only pad the vocabulary."""
    if output_layer.sequence_parallel:
        hidden_S1H = tensor_parallel.gather_from_sequence_parallel_region(hidden_S1H, group=output_layer.tp_group)
        hidden_K1H = hidden_S1H.index_select(0, positions_K)
    else:
        hidden_K1H = tensor_parallel.copy_to_tensor_model_parallel_region(
            hidden_S1H.index_select(0, positions_K), group=output_layer.tp_group
        )
    logits_K1V = torch.nn.functional.linear(hidden_K1H, output_layer.weight)
    columns = logits_K1V.size(-1)
    real = min(max(vocab_size - columns * output_layer.tp_group.rank(), 0), columns)
    logits_K1V = logits_K1V.float()
    if real == columns:
        return logits_K1V
    return torch.nn.functional.pad(logits_K1V[..., :real], (0, columns - real), value=float("-inf"))
