"""From a model's geometry and a process grid to megatron.core's configurations of its three parts."""

from typing import Any, NamedTuple

import torch
from megatron.core.transformer.transformer_config import TransformerConfig

from internvl_trainer.contract.catalog import LanguageGeometry, ModelGeometry, VisionGeometry
from internvl_trainer.contract.job import PartitionConfig, RecomputeConfig
from internvl_trainer.contract.layout import head_slots, layout_problems
from internvl_trainer.contract.manifest import ParallelLayout
from internvl_trainer.model.errors import LayoutError


class ModelConfigs(NamedTuple):
    """One configuration per part. Schedules and data parallelism read the language model's."""

    vision: TransformerConfig
    projector: TransformerConfig
    language: TransformerConfig
    from_pixels: bool = False
    """Whether a trained vision encoder, with the projector behind it, keeps nothing but its tiles for the backward."""


KEEP_ALL = RecomputeConfig(vision="none", language="none")
"""Nothing is computed twice: what a pass without gradients wants, and models so small that memory does not matter."""


def model_configs(
    geometry: ModelGeometry,
    layout: ParallelLayout,
    *,
    partition: PartitionConfig = PartitionConfig(),  # noqa: B008  (frozen)
    dtype: torch.dtype = torch.float32,
    recompute: RecomputeConfig = KEEP_ALL,
) -> ModelConfigs:
    """Configurations for one model on one process grid.

    Args:
        geometry: which model.
        layout: sizes of the tensor, pipeline and data axes.
        partition: what of the model the axes share. Language layers are spread evenly where it does not say how.
        dtype: of parameters and activations, float32 or bfloat16.
        recompute: what is computed again in the backward pass; `whole` implies `layers` while that pass runs.

    Raises:
        LayoutError: the model cannot be cut that way; names each count, the axis and its possible sizes.
    """
    problems = layout_problems(geometry, layout, partition)
    if problems:
        raise LayoutError(geometry.name, problems)
    shared = _shared(layout, dtype)
    return ModelConfigs(
        vision=_vision(
            geometry.vision,
            1 if partition.vision == "tiles" else layout.tensor,
            shared | _recompute(recompute.vision),
        ),
        projector=TransformerConfig(
            num_layers=1,
            hidden_size=geometry.language.hidden,
            num_attention_heads=geometry.language.heads,
            kv_channels=geometry.language.head_dim,
            add_bias_linear=True,
            **shared,
        ),
        language=_language(geometry.language, layout, partition, shared | _recompute(recompute.language)),
        from_pixels=recompute.vision == "whole",
    )


def padded_vocab_size(vocab_size: int, tensor: int, multiple: int = 128) -> int:
    """Rows of embedding and head inside the model: the vocabulary, padded to a multiple of `multiple` on each rank."""
    unit = multiple * tensor
    return -(-vocab_size // unit) * unit


def _shared(layout: ParallelLayout, dtype: torch.dtype) -> dict[str, Any]:
    return {
        "params_dtype": dtype,
        "bf16": dtype is torch.bfloat16,
        "tensor_model_parallel_size": layout.tensor,
        # Weights come from a checkpoint or from model/initialise.py, which does not depend on the process grid.
        "perform_initialization": False,
        "hidden_dropout": 0.0,
        "attention_dropout": 0.0,
        # megatron's fused bias-GELU is the tanh form; InternVL uses the exact one.
        "bias_activation_fusion": False,
        "bias_dropout_fusion": False,
        "masked_softmax_fusion": False,
        "apply_rope_fusion": False,
        "persist_layer_norm": False,
        "gradient_accumulation_fusion": False,
    }


def _recompute(what: str) -> dict[str, Any]:
    """Keep each layer's input only, or everything."""
    if what == "none":
        return {}
    return {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1}


def _vision(geometry: VisionGeometry, tensor: int, shared: dict[str, Any]) -> TransformerConfig:
    """The encoder's configuration, its layers cut for `tensor` ranks."""
    return TransformerConfig(
        num_layers=geometry.layers,
        hidden_size=geometry.hidden,
        num_attention_heads=head_slots(geometry.heads, tensor),
        kv_channels=geometry.hidden // geometry.heads,
        ffn_hidden_size=geometry.ffn,
        normalization={"layernorm": "LayerNorm", "rmsnorm": "RMSNorm"}[geometry.norm],
        layernorm_epsilon=geometry.norm_eps,
        activation_func=torch.nn.functional.gelu,
        add_bias_linear=True,
        add_qkv_bias=geometry.qkv_bias,
        qk_layernorm=geometry.qk_norm,
        **shared | {"tensor_model_parallel_size": tensor},
    )


def _stages(layers: tuple[int, ...]) -> list[list[str]]:
    """What each pipeline stage holds of the language model, in megatron's words."""
    stages = [["decoder"] * count for count in layers]
    stages[0].insert(0, "embedding")
    stages[-1].append("loss")
    return stages


def _even(layers: int, stages: int) -> tuple[int, ...]:
    """As many layers for each stage, odd ones at the end: earlier stages keep activations of more micro-batches."""
    return tuple(layers // stages + (stage >= stages - layers % stages) for stage in range(stages))


def _language(
    geometry: LanguageGeometry, layout: ParallelLayout, partition: PartitionConfig, shared: dict[str, Any]
) -> TransformerConfig:
    return TransformerConfig(
        num_layers=geometry.layers,
        hidden_size=geometry.hidden,
        num_attention_heads=geometry.heads,
        num_query_groups=geometry.kv_heads,
        kv_channels=geometry.head_dim,
        ffn_hidden_size=geometry.ffn,
        normalization="RMSNorm",
        layernorm_epsilon=geometry.norm_eps,
        gated_linear_unit=True,
        activation_func=torch.nn.functional.silu,
        # The activation is the layer spec's module (model/swiglu.py), which need not be Transformer Engine's.
        use_te_activation_func=True,
        add_bias_linear=False,
        add_qkv_bias=geometry.qkv_bias,
        pipeline_model_parallel_size=layout.pipeline,
        pipeline_model_parallel_layout=_stages(partition.pipeline_layers or _even(geometry.layers, layout.pipeline)),
        pipeline_dtype=shared["params_dtype"],
        # On one rank there is nothing to share: there it is the same as without.
        sequence_parallel=partition.sequence and layout.tensor > 1,
        # Packs differ in length, so stages tell each other the shape of what they send.
        variable_seq_lengths=True,
        moe_token_dispatcher_type="alltoall",  # unused, but megatron refuses its default beside variable lengths
        batch_p2p_sync=False,
        deallocate_pipeline_outputs=True,
        # The engine divides by the whole global batch's weights itself: no division by megatron.
        calculate_per_token_loss=True,
        **shared,
    )
