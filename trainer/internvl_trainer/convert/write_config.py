"""From our geometry to the JSON files of a Hugging Face folder, in both layouts, whole or for one component.

Native files are read by the published remote code; those of the transformers layout by transformers itself, 4.52 or
newer, whose RoPE fields changed with 5: both forms are written.
"""

from typing import Any

from internvl_trainer.contract import bases, tokens
from internvl_trainer.contract.base import Component
from internvl_trainer.contract.catalog import LanguageGeometry, ModelGeometry, VisionGeometry
from internvl_trainer.convert.errors import UnsupportedModelError
from internvl_trainer.convert.mapping import Layout
from internvl_trainer.model.pixels import IMAGENET_MEAN, IMAGENET_STD

type Document = dict[str, Any]

MAX_TILES = 12
"""`max_dynamic_patch` of the released models."""

PROJECTOR_NORM_EPS = 1e-5
"""What both implementations have written into their code."""

REMOTE_CODE = "OpenGVLab/InternVL2_5-8B"
"""Whose code reads a native folder of a model that has not been released."""

_VISION_REPOSITORY = "OpenGVLab/InternViT-300M-448px-V2_5"
VISION_CODE = {
    "auto_map": {
        "AutoConfig": f"{_VISION_REPOSITORY}--configuration_intern_vit.InternVisionConfig",
        "AutoModel": f"{_VISION_REPOSITORY}--modeling_intern_vit.InternVisionModel",
    }
}
"""Whose code reads a native vision encoder that stands alone; it is the same for all InternViTs."""


def documents(
    model: ModelGeometry,
    layout: Layout,
    *,
    component: Component | None = None,
    dtype: str = "bfloat16",
    image_token: int | None = None,
) -> dict[str, Document]:
    """File name -> content of the JSON files that belong to the weights.

    Args:
        model: which model.
        layout: which layout.
        component: vision or language, where the folder holds that part alone.
        dtype: bfloat16 or float32, of the weights.
        image_token: id of `<IMG_CONTEXT>`; None: that of the released tokenizers.

    Raises:
        UnsupportedModelError: the layout cannot say what this model is.
    """
    _check(model)
    native = layout is Layout.NATIVE
    kind = {"torch_dtype": dtype} if native else {"dtype": dtype}
    if component is Component.PROJECTOR:
        raise UnsupportedModelError("no Hugging Face class holds a projector alone; export vision or the whole model")
    if component is Component.VISION:
        part = _native_vision(model.vision) | VISION_CODE if native else _vision(model.vision)
        return {"config.json": part | kind, "preprocessor_config.json": _preprocessor(model.vision, layout)}
    language = _native_language(model.language) if native else _language(model.language)
    if component is Component.LANGUAGE:
        return {"config.json": language | kind, "generation_config.json": _generation(model.language)}
    whole = _native_whole(model, dtype) if native else _whole(model, image_token)
    return {
        "config.json": whole | kind,
        "generation_config.json": _generation(model.language),
        "preprocessor_config.json": _preprocessor(model.vision, layout),
    }


def image_token_of(model: ModelGeometry) -> int:
    """The id of `<IMG_CONTEXT>` in the released tokenizer of this model's family.

    Raises:
        UnsupportedModelError: the model's vocabulary is not the released one.
    """
    facts = model.language.tokenizer
    if facts.vocab_size != model.language.vocab_size:
        raise UnsupportedModelError(
            f"{model.name} has {model.language.vocab_size} tokens, the released {model.language.family} tokenizer "
            f"{facts.vocab_size}: say by --image-token which id {tokens.IMAGE_CONTEXT} has"
        )
    return facts.added(tokens.IMAGE_CONTEXT)


def _native_whole(model: ModelGeometry, dtype: str) -> Document:
    code = f"OpenGVLab/{model.name}" if model.name in bases.LANGUAGE_BASES else REMOTE_CODE
    return {
        "architectures": ["InternVLChatModel"],
        "auto_map": {
            "AutoConfig": f"{code}--configuration_internvl_chat.InternVLChatConfig",
            "AutoModel": f"{code}--modeling_internvl_chat.InternVLChatModel",
            "AutoModelForCausalLM": f"{code}--modeling_internvl_chat.InternVLChatModel",
        },
        "model_type": "internvl_chat",
        "downsample_ratio": model.downsample_ratio,
        "dynamic_image_size": True,
        "force_image_size": model.vision.image_size,
        "max_dynamic_patch": MAX_TILES,
        "min_dynamic_patch": 1,
        "pad2square": False,
        "ps_version": "v2",
        "select_layer": -1,
        "template": model.language.tokenizer.template,
        "tie_word_embeddings": False,
        "use_backbone_lora": 0,
        "use_llm_lora": 0,
        "use_thumbnail": True,
        "llm_config": _native_language(model.language) | {"torch_dtype": dtype},
        "vision_config": _native_vision(model.vision) | {"torch_dtype": dtype},
    }


def _whole(model: ModelGeometry, image_token: int | None) -> Document:
    return {
        "architectures": ["InternVLForConditionalGeneration"],
        "model_type": "internvl",
        "downsample_ratio": model.downsample_ratio,
        "image_seq_length": model.tokens_per_tile,
        "image_token_id": image_token_of(model) if image_token is None else image_token,
        "projector_hidden_act": "gelu",
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "default",
        "tie_word_embeddings": False,
        "text_config": _language(model.language),
        "vision_config": _vision(model.vision),
    }


def _native_vision(vision: VisionGeometry) -> Document:
    return _vision_sizes(vision) | {
        "architectures": ["InternVisionModel"],
        "model_type": "intern_vit_6b",
        "image_size": vision.image_size,
        "patch_size": vision.patch_size,
        "qkv_bias": vision.qkv_bias,
        "qk_normalization": vision.qk_norm,
        "dropout": 0.0,
        "drop_path_rate": 0.0,
        "initializer_factor": vision.layer_scale_init,
        "initializer_range": 1e-10,
        "use_flash_attn": True,
    }


def _vision(vision: VisionGeometry) -> Document:
    return _vision_sizes(vision) | {
        "architectures": ["InternVLVisionModel"],
        "model_type": "internvl_vision",
        "image_size": [vision.image_size] * 2,
        "patch_size": [vision.patch_size] * 2,
        "attention_bias": vision.qkv_bias,
        "use_qk_norm": vision.qk_norm,
        "hidden_dropout_prob": 0.0,
        "projection_dropout": 0.0,
        "layer_scale_init_value": vision.layer_scale_init,
        "use_absolute_position_embeddings": True,
        "use_mask_token": False,
        "use_mean_pooling": True,
    }


def _vision_sizes(vision: VisionGeometry) -> Document:
    return {
        "hidden_size": vision.hidden,
        "intermediate_size": vision.ffn,
        "num_attention_heads": vision.heads,
        "num_channels": 3,
        "num_hidden_layers": vision.layers,
        "hidden_act": "gelu",
        "norm_type": {"layernorm": "layer_norm", "rmsnorm": "rms_norm"}[vision.norm],
        "layer_norm_eps": vision.norm_eps,
        "attention_dropout": 0.0,
    }


def _native_language(language: LanguageGeometry) -> Document:
    factor = _rope_factor(language)
    rope: Document = {"rope_theta": language.rope_theta}
    if language.family == "qwen2.5":
        return _qwen2(language) | rope
    scaling = None if factor is None else {"type": "dynamic", "factor": factor}
    return _language_sizes(language) | rope | {
        "architectures": ["InternLM2ForCausalLM"],
        "model_type": "internlm2",
        "bias": False,
        "rope_scaling": scaling,
    }  # fmt: skip


def _language(language: LanguageGeometry) -> Document:
    factor = _rope_factor(language)
    scaling = {"rope_type": "default"} if factor is None else {"rope_type": "dynamic", "factor": factor}
    rope: Document = {
        "rope_parameters": {"rope_theta": language.rope_theta, **scaling},
        "rope_theta": language.rope_theta,
        "rope_scaling": None if factor is None else scaling,
    }
    if language.family == "qwen2.5":
        return _qwen2(language) | rope
    return _language_sizes(language) | rope | {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "attention_bias": False,
        "mlp_bias": False,
        "head_dim": language.head_dim,
    }  # fmt: skip


def _qwen2(language: LanguageGeometry) -> Document:
    return _language_sizes(language) | {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "attention_dropout": 0.0,
        "use_sliding_window": False,
    }


def _language_sizes(language: LanguageGeometry) -> Document:
    return {
        "hidden_size": language.hidden,
        "intermediate_size": language.ffn,
        "num_attention_heads": language.heads,
        "num_hidden_layers": language.layers,
        "num_key_value_heads": language.kv_heads,
        "vocab_size": language.vocab_size,
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "max_position_embeddings": language.max_positions,
        "rms_norm_eps": language.norm_eps,
        "tie_word_embeddings": False,
        "use_cache": True,
        **_special_tokens(language),
    }


def _special_tokens(language: LanguageGeometry) -> Document:
    """Ids that the released tokenizer of the family gives; none where the vocabulary is another one."""
    facts = language.tokenizer
    if facts.vocab_size != language.vocab_size:
        return {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    return {"bos_token_id": facts.bos, "eos_token_id": facts.turn_end, "pad_token_id": facts.pad}


def _generation(language: LanguageGeometry) -> Document:
    return {"_from_model_config": True, **_special_tokens(language)}


def _preprocessor(vision: VisionGeometry, layout: Layout) -> Document:
    side = vision.image_size
    shared: Document = {
        "do_normalize": True,
        "do_resize": True,
        "image_mean": list(IMAGENET_MEAN),
        "image_std": list(IMAGENET_STD),
        "resample": 3,
    }
    if layout is Layout.NATIVE:
        # The remote code's callers cut tiles themselves: this is about one of them.
        kind = "CLIPFeatureExtractor"
        return shared | {"feature_extractor_type": kind, "do_center_crop": True, "crop_size": side, "size": side}
    return shared | {
        "image_processor_type": "GotOcr2ImageProcessor",
        "crop_to_patches": True,
        "min_patches": 1,
        "max_patches": MAX_TILES,
        "do_convert_rgb": True,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "size": {"height": side, "width": side},
    }


def _rope_factor(language: LanguageGeometry) -> float | None:
    base = bases.base_of(language)
    return base.rope_factor if base else None


def _check(model: ModelGeometry) -> None:
    language = model.language
    if language.hidden != language.heads * language.head_dim:
        raise UnsupportedModelError(
            f"{model.name}: {language.heads} heads of {language.head_dim} are not the hidden width {language.hidden}; "
            "both layouts take the head dim to be hidden width / heads"
        )
    if model.projector_norm_eps != PROJECTOR_NORM_EPS:
        raise UnsupportedModelError(
            f"{model.name}: projector_norm_eps is {model.projector_norm_eps}, both layouts have {PROJECTOR_NORM_EPS}"
        )
    if language.qkv_bias != (language.family == "qwen2.5"):
        raise UnsupportedModelError(
            f"{model.name}: qkv_bias is {language.qkv_bias}, which no {language.family} configuration can say"
        )
