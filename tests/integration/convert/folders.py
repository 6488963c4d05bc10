"""Tiny Hugging Face folders in both layouts, and what lies in a folder."""

import json
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from internvl_trainer.contract.base import Component
from internvl_trainer.contract.catalog import LanguageGeometry, ModelGeometry, VisionGeometry

VISION = {
    "300m": VisionGeometry(layers=2, hidden=32, heads=4, ffn=64, image_size=56),
    "6b": VisionGeometry(
        layers=2, hidden=40, heads=5, ffn=64, image_size=56, norm="rmsnorm", qkv_bias=False, qk_norm=True
    ),
}
"""By style. The 6B's has an odd number of heads, as the real one has."""

LANGUAGE = {
    "qwen2.5": LanguageGeometry(
        family="qwen2.5", layers=2, hidden=48, heads=4, kv_heads=2, head_dim=12, ffn=64, vocab_size=131
    ),
    "internlm2.5": LanguageGeometry(
        family="internlm2.5", layers=2, hidden=48, heads=4, kv_heads=2, head_dim=12, ffn=64, vocab_size=131,
        norm_eps=1e-5, qkv_bias=False,
    ),
}  # fmt: skip
"""By family. The vocabulary needs padding at every tensor-parallel size."""


IMAGE_TOKEN = 7
NORMS = {"layernorm": "layer_norm", "rmsnorm": "rms_norm"}


def geometry(vision: str, language: str) -> ModelGeometry:
    """A tiny model of two styles."""
    return ModelGeometry(name=f"tiny-{vision}-{language}", vision=VISION[vision], language=LANGUAGE[language])


def random_values(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """The same values for the same name, of a size that a model can compute with."""
    drawn = torch.empty(shape).normal_(std=0.2, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))
    return drawn + 1 if "norm" in name and name.endswith("weight") else drawn


def write_native(
    folder: Path,
    model: ModelGeometry,
    *,
    dtype: torch.dtype = torch.float32,
    values: Callable[[str, tuple[int, ...]], torch.Tensor] = random_values,
    files: int = 2,
) -> Path:
    """OpenGVLab's form of a model, in some weight files with an index; returns `folder`."""
    tensors = {name: values(name, shape).to(dtype) for name, shape in model.state_dict_shapes().items()}
    save_in_files(folder, tensors, files)
    config = {
        "architectures": ["InternVLChatModel"],
        "model_type": "internvl_chat",
        "downsample_ratio": model.downsample_ratio,
        "force_image_size": model.vision.image_size,
        "ps_version": "v2",
        "select_layer": -1,
        "template": "internvl2_5",
        "torch_dtype": str(dtype).removeprefix("torch."),
        "vision_config": vision_config(model.vision),
        "llm_config": language_config(model.language),
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def write_bare(folder: Path, model: ModelGeometry, component: Component, *, dtype: torch.dtype = torch.float32) -> Path:
    """The vision encoder or the language model alone, as their own repositories have them; returns `folder`."""
    prefix = f"{component}_model."
    shapes = {name.removeprefix(prefix): shape for name, shape in model.state_dict_shapes(component).items()}
    save_in_files(folder, {name: random_values(prefix + name, shape).to(dtype) for name, shape in shapes.items()}, 1)
    config = vision_config(model.vision) if component is Component.VISION else language_config(model.language)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def write_transformers(folder: Path, vision: str, *, dtype: torch.dtype = torch.float32) -> Path:
    """A random model made and saved by transformers itself, with a Qwen2.5; returns `folder`."""
    transformers_model(vision).to(dtype).save_pretrained(folder, max_shard_size="20KB")
    return folder


def transformers_model(vision: str) -> Any:
    """The model that `write_transformers` saves."""
    from transformers import InternVLConfig, InternVLForConditionalGeneration

    encoder, decoder = VISION[vision], LANGUAGE["qwen2.5"]
    config = InternVLConfig(
        vision_config={
            "hidden_size": encoder.hidden, "num_hidden_layers": encoder.layers, "num_attention_heads": encoder.heads,
            "intermediate_size": encoder.ffn, "image_size": [encoder.image_size] * 2,
            "patch_size": [encoder.patch_size] * 2, "norm_type": NORMS[encoder.norm], "use_qk_norm": encoder.qk_norm,
            "attention_bias": encoder.qkv_bias, "layer_norm_eps": encoder.norm_eps,
        },
        text_config=language_config(decoder),
        image_token_id=IMAGE_TOKEN,
        image_seq_length=4,
        tie_word_embeddings=False,
    )  # fmt: skip
    model = InternVLForConditionalGeneration(config).eval()
    for name, weight in model.named_parameters():
        weight.data.copy_(random_values(name, tuple(weight.shape)))
    return model


def vision_config(vision: VisionGeometry) -> dict[str, Any]:
    """In the form of the published InternViTs."""
    return {
        "architectures": ["InternVisionModel"], "model_type": "intern_vit_6b", "hidden_size": vision.hidden,
        "num_hidden_layers": vision.layers, "num_attention_heads": vision.heads, "intermediate_size": vision.ffn,
        "image_size": vision.image_size, "patch_size": vision.patch_size, "qkv_bias": vision.qkv_bias,
        "qk_normalization": vision.qk_norm, "layer_norm_eps": vision.norm_eps, "hidden_act": "gelu",
        "norm_type": NORMS[vision.norm],
    }  # fmt: skip


def language_config(language: LanguageGeometry) -> dict[str, Any]:
    """In the form of the published Qwen2.5 and InternLM2.5."""
    kind = {"qwen2.5": ("qwen2", "Qwen2ForCausalLM"), "internlm2.5": ("internlm2", "InternLM2ForCausalLM")}
    model_type, architecture = kind[language.family]
    config = {
        "architectures": [architecture], "model_type": model_type, "hidden_size": language.hidden,
        "num_hidden_layers": language.layers, "num_attention_heads": language.heads,
        "num_key_value_heads": language.kv_heads, "intermediate_size": language.ffn,
        "vocab_size": language.vocab_size, "rope_theta": language.rope_theta, "rms_norm_eps": language.norm_eps,
        "max_position_embeddings": language.max_positions, "hidden_act": "silu", "tie_word_embeddings": False,
    }  # fmt: skip
    return config | ({"bias": False} if model_type == "internlm2" else {})


def save_in_files(folder: Path, tensors: Mapping[str, torch.Tensor], files: int) -> None:
    """Weight files as Hugging Face names them, with an index where there are several."""
    folder.mkdir(parents=True, exist_ok=True)
    if files == 1:
        save_file(dict(tensors), folder / "model.safetensors", {"format": "pt"})
        return
    places = {name: f"model-{n % files + 1:05}-of-{files:05}.safetensors" for n, name in enumerate(tensors)}
    for file in set(places.values()):
        save_file({name: tensors[name] for name in tensors if places[name] == file}, folder / file, {"format": "pt"})
    index = {"metadata": {"total_size": sum(tensor.nbytes for tensor in tensors.values())}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of all weight files in a folder."""
    found: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        found |= load_file(file)
    return found


def assert_same_tensors(folder: Path, expected: Mapping[str, torch.Tensor]) -> None:
    """Same names, same dtypes, same bits."""
    found = tensors_of(folder)
    assert found.keys() == expected.keys()
    different = [
        name
        for name, tensor in expected.items()
        if tensor.dtype != found[name].dtype or not torch.equal(tensor, found[name])
    ]
    assert not different
