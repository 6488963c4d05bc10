"""A model's geometry as the configuration that `transformers` builds an InternVL from."""

from typing import TYPE_CHECKING, Any

from internvl_trainer.contract.catalog import LanguageGeometry, ModelGeometry, VisionGeometry

if TYPE_CHECKING:
    from transformers import InternVLConfig


def transformers_config(model: ModelGeometry, image_token: int) -> "InternVLConfig":
    """The configuration of the same network: Qwen2.5 as qwen2, InternLM2.5 as the Llama that it is."""
    from transformers import InternVLConfig

    return InternVLConfig(
        vision_config=_vision(model.vision),
        text_config=_language(model.language),
        image_token_id=image_token,
        image_seq_length=model.tokens_per_tile,
        downsample_ratio=model.downsample_ratio,
        tie_word_embeddings=False,
    )


def _vision(vision: VisionGeometry) -> dict[str, Any]:
    return {
        "hidden_size": vision.hidden,
        "num_hidden_layers": vision.layers,
        "num_attention_heads": vision.heads,
        "intermediate_size": vision.ffn,
        "attention_bias": vision.qkv_bias,
        "use_qk_norm": vision.qk_norm,
        "norm_type": {"layernorm": "layer_norm", "rmsnorm": "rms_norm"}[vision.norm],
        "layer_norm_eps": vision.norm_eps,
        "image_size": [vision.image_size] * 2,
        "patch_size": [vision.patch_size] * 2,
        "layer_scale_init_value": vision.layer_scale_init,
    }


def _language(language: LanguageGeometry) -> dict[str, Any]:
    return {
        "model_type": {"qwen2.5": "qwen2", "internlm2.5": "llama"}[language.family],
        "hidden_size": language.hidden,
        "num_hidden_layers": language.layers,
        "num_attention_heads": language.heads,
        "num_key_value_heads": language.kv_heads,
        "head_dim": language.head_dim,
        "intermediate_size": language.ffn,
        "vocab_size": language.vocab_size,
        "max_position_embeddings": language.max_positions,
        "rms_norm_eps": language.norm_eps,
        "rope_parameters": {"rope_theta": language.rope_theta, "rope_type": "default"},
        "tie_word_embeddings": False,
    }
