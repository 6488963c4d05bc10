"""The reference's tiny models in our form: their geometry, and their formula weights under our names.

Shapes: H hidden, F ffn, G key-value groups, Q query heads per group, D head dim.
"""

import json
import math
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from internvl_trainer.contract.catalog import LanguageGeometry, ModelGeometry, VisionGeometry
from internvl_trainer.contract.tensors import WholeTensor

FOLDER = Path(__file__).parents[2] / "golden"


def load(name: str) -> Any:
    """One golden file."""
    return json.loads((FOLDER / name).read_text())


def vision_geometry(config: dict[str, Any]) -> VisionGeometry:
    """From the reference's vision configuration."""
    return VisionGeometry(
        layers=config["num_hidden_layers"],
        hidden=config["hidden_size"],
        heads=config["num_attention_heads"],
        ffn=config["intermediate_size"],
        image_size=config["image_size"],
        patch_size=config["patch_size"],
        norm={"layer_norm": "layernorm", "rms_norm": "rmsnorm"}[config["norm_type"]],
        norm_eps=config["layer_norm_eps"],
        qkv_bias=config["qkv_bias"],
        qk_norm=config["qk_normalization"],
    )


def model_geometry(vision: dict[str, Any], llm: dict[str, Any]) -> ModelGeometry:
    """From the reference's two configurations."""
    language = LanguageGeometry(
        family="qwen2.5",
        layers=llm["num_hidden_layers"],
        hidden=llm["hidden_size"],
        heads=llm["num_attention_heads"],
        kv_heads=llm["num_key_value_heads"],
        head_dim=llm["hidden_size"] // llm["num_attention_heads"],
        ffn=llm["intermediate_size"],
        vocab_size=llm["vocab_size"],
        rope_theta=llm["rope_theta"],
        norm_eps=llm["rms_norm_eps"],
        max_positions=llm["max_position_embeddings"],
    )
    return ModelGeometry(name="golden", vision=vision_geometry(vision), language=language)


def pixels(count: int, side: int) -> torch.Tensor:
    """The reference's pixels, already normalised: [count, 3, side, side]."""
    k = torch.arange(count * 3 * side * side, dtype=torch.float64)
    return torch.sin(0.11 * k + 0.5).float().reshape(count, 3, side, side)


def formula(name: str, *shape: int) -> torch.Tensor:
    """A parameter's values, by its name in the reference's checkpoint."""
    k = torch.arange(math.prod(shape), dtype=torch.float64)
    shift = zlib.crc32(name.encode()) % 1000 / 159
    return (_base(name) + 0.08 * torch.sin(0.37 * (k + 1) + shift)).float().reshape(shape)


def _base(name: str) -> float:
    if name.endswith(("ls1", "ls2")):
        return 0.5
    return float(name.endswith("weight") and ("norm" in name or name == "mlp1.0.weight"))


def group_qkv(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, groups: int) -> torch.Tensor:
    """Rows of three projections in megatron's order: per group its query heads, then its key, then its value."""
    return torch.cat([x.reshape(groups, -1, *x.shape[1:]) for x in (q, k, v)], dim=1).flatten(0, 1)


def ungroup_qkv(fused: torch.Tensor, groups: int, head_dim: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The inverse of `group_qkv`."""
    per_group = fused.reshape(groups, -1, *fused.shape[1:])
    queries = per_group.size(1) - 2 * head_dim
    q, k, v = per_group.split([queries, head_dim, head_dim], dim=1)
    return q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1)


def vision_source(geometry: VisionGeometry, prefix: str = "") -> Callable[[WholeTensor], torch.Tensor]:
    """Values of our vision tensors; `prefix` is what the reference's names begin with."""
    h, f, side = geometry.hidden, geometry.ffn, geometry.patch_size
    positions = geometry.patches_per_side**2 + 1
    whole = {
        "patch_weight": ("embeddings.patch_embedding.weight", (h, 3, side, side)),
        "patch_bias": ("embeddings.patch_embedding.bias", (h,)),
        "class_token": ("embeddings.class_embedding", (h,)),
        "position": ("embeddings.position_embedding", (positions, h)),
    }
    layered = {
        "ls1": ("ls1", (h,)), "ls2": ("ls2", (h,)),
        "input_layernorm.weight": ("norm1.weight", (h,)), "input_layernorm.bias": ("norm1.bias", (h,)),
        "pre_mlp_layernorm.weight": ("norm2.weight", (h,)), "pre_mlp_layernorm.bias": ("norm2.bias", (h,)),
        "self_attention.linear_qkv.weight": ("attn.qkv.weight", (3 * h, h)),
        "self_attention.linear_qkv.bias": ("attn.qkv.bias", (3 * h,)),
        "self_attention.q_layernorm.weight": ("attn.q_norm.weight", (h,)),
        "self_attention.k_layernorm.weight": ("attn.k_norm.weight", (h,)),
        "self_attention.linear_proj.weight": ("attn.proj.weight", (h, h)),
        "self_attention.linear_proj.bias": ("attn.proj.bias", (h,)),
        "mlp.linear_fc1.weight": ("mlp.fc1.weight", (f, h)), "mlp.linear_fc1.bias": ("mlp.fc1.bias", (f,)),
        "mlp.linear_fc2.weight": ("mlp.fc2.weight", (h, f)), "mlp.linear_fc2.bias": ("mlp.fc2.bias", (h,)),
    }  # fmt: skip

    def source(tensor: WholeTensor) -> torch.Tensor:
        key = tensor.key.removeprefix("vision_model.")
        if tensor.layer is None:
            name, shape = whole[key]
            return formula(prefix + name, *shape)
        name, shape = layered[key.removeprefix("encoder.layers.")]
        values = formula(f"{prefix}encoder.layers.{tensor.layer}.{name}", *shape)
        return group_qkv(*values.chunk(3), geometry.heads) if "qkv" in key else values

    return source


def model_source(geometry: ModelGeometry) -> Callable[[WholeTensor], torch.Tensor]:
    """Values of all our tensors."""
    language, width = geometry.language, geometry.projector_input
    h, f = language.hidden, language.ffn
    q, kv = language.heads * language.head_dim, language.kv_heads * language.head_dim
    vision = vision_source(geometry.vision, "vision_model.")
    whole = {
        "projector.norm.weight": ("mlp1.0.weight", (width,)), "projector.norm.bias": ("mlp1.0.bias", (width,)),
        "projector.linear_in.weight": ("mlp1.1.weight", (h, width)), "projector.linear_in.bias": ("mlp1.1.bias", (h,)),
        "projector.linear_out.weight": ("mlp1.3.weight", (h, h)), "projector.linear_out.bias": ("mlp1.3.bias", (h,)),
        "language_model.embedding.word_embeddings.weight": (
            "language_model.model.embed_tokens.weight", (language.vocab_size, h)
        ),
        "language_model.output_layer.weight": ("language_model.lm_head.weight", (language.vocab_size, h)),
        "language_model.decoder.final_layernorm.weight": ("language_model.model.norm.weight", (h,)),
    }  # fmt: skip
    layered = {
        "input_layernorm.weight": ("input_layernorm.weight", (h,)),
        "pre_mlp_layernorm.weight": ("post_attention_layernorm.weight", (h,)),
        "self_attention.linear_proj.weight": ("self_attn.o_proj.weight", (h, q)),
        "mlp.linear_fc2.weight": ("mlp.down_proj.weight", (h, f)),
    }

    def source(tensor: WholeTensor) -> torch.Tensor:
        if tensor.key.startswith("vision_model."):
            return vision(tensor)
        if tensor.layer is None:
            name, shape = whole[tensor.key]
            values = formula(name, *shape)
            return torch.cat([values, values.new_zeros(tensor.shape[0] - shape[0], *shape[1:])])
        layer = f"language_model.model.layers.{tensor.layer}."
        key = tensor.key.removeprefix("language_model.decoder.layers.")
        if key in layered:
            name, shape = layered[key]
            return formula(layer + name, *shape)
        if "linear_fc1" in key:
            return torch.cat([formula(f"{layer}mlp.{half}_proj.weight", f, h) for half in ("gate", "up")])
        columns = (h,) if key.endswith("weight") else ()
        kind = key.rsplit(".", 1)[-1]
        parts = [formula(f"{layer}self_attn.{x}_proj.{kind}", n, *columns) for x, n in (("q", q), ("k", kv), ("v", kv))]
        return group_qkv(*parts, language.kv_heads)

    return source


def native_gradients(geometry: ModelGeometry, ours: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Gradients of a single-process model under the reference's names, vision and language layers included."""
    language = geometry.language
    found = {}
    for name, gradient in ours.items():
        if "language_model.decoder.layers." in name:
            _, _, _, layer, key = name.split(".", 4)
            native = f"language_model.model.layers.{layer}."
            kind = name.rsplit(".", 1)[-1]
            if "linear_qkv" in key:
                parts = ungroup_qkv(gradient, language.kv_heads, language.head_dim)
                found |= {f"{native}self_attn.{x}_proj.{kind}": part for x, part in zip("qkv", parts, strict=True)}
            elif "linear_fc1" in key:
                gate, up = gradient.chunk(2)
                found |= {f"{native}mlp.gate_proj.weight": gate, f"{native}mlp.up_proj.weight": up}
            else:
                names = {
                    "input_layernorm": "input_layernorm", "pre_mlp_layernorm": "post_attention_layernorm",
                    "self_attention.linear_proj": "self_attn.o_proj", "mlp.linear_fc2": "mlp.down_proj",
                }  # fmt: skip
                found[f"{native}{names[key.rsplit('.', 1)[0]]}.{kind}"] = gradient
        elif name.startswith("vision_model.encoder."):
            names = {
                "input_layernorm": "norm1", "pre_mlp_layernorm": "norm2", "self_attention.linear_qkv": "attn.qkv",
                "self_attention.linear_proj": "attn.proj", "mlp.linear_fc1": "mlp.fc1", "mlp.linear_fc2": "mlp.fc2",
            }  # fmt: skip
            prefix, layer, key = "vision_model.encoder.layers", *name.split(".", 4)[3:]
            stem, _, kind = key.rpartition(".")
            found[f"{prefix}.{layer}.{names[stem]}.{kind}" if stem else f"{prefix}.{layer}.{kind}"] = gradient
        else:
            others = {
                "vision_model.patch_weight": "vision_model.embeddings.patch_embedding.weight",
                "vision_model.patch_bias": "vision_model.embeddings.patch_embedding.bias",
                "vision_model.class_token": "vision_model.embeddings.class_embedding",
                "vision_model.position": "vision_model.embeddings.position_embedding",
                "projector.norm.weight": "mlp1.0.weight", "projector.norm.bias": "mlp1.0.bias",
                "projector.linear_in.weight": "mlp1.1.weight", "projector.linear_in.bias": "mlp1.1.bias",
                "projector.linear_out.weight": "mlp1.3.weight", "projector.linear_out.bias": "mlp1.3.bias",
                "language_model.embedding.word_embeddings.weight": "language_model.model.embed_tokens.weight",
                "language_model.output_layer.weight": "language_model.lm_head.weight",
                "language_model.decoder.final_layernorm.weight": "language_model.model.norm.weight",
            }  # fmt: skip
            found[others[name]] = gradient
    return found
