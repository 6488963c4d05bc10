"""The reference's tiny models in our form: their geometry, and their formula weights by the conversion's tables."""

import json
import math
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

from internvl_trainer.contract.catalog import LanguageGeometry, ModelGeometry, VisionGeometry
from internvl_trainer.contract.tensors import WholeTensor
from internvl_trainer.convert import tables, vision
from internvl_trainer.convert.mapping import Layout, Mapping

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


def vision_source(geometry: VisionGeometry) -> Callable[[WholeTensor], torch.Tensor]:
    """Values of the tensors of a vision encoder on its own."""
    return _source(vision.table(geometry).mappings(Layout.NATIVE, bare=True))


def model_source(geometry: ModelGeometry) -> Callable[[WholeTensor], torch.Tensor]:
    """Values of all our tensors; rows that pad the vocabulary are zero."""
    return _source(tables.mappings(geometry, Layout.NATIVE))


def native_gradients(geometry: ModelGeometry, ours: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Gradients of a single-process model, by its parameters' names, under the reference's names."""
    by_name = {_parameter(mapping.tensor): mapping for mapping in tables.mappings(geometry, Layout.NATIVE)}
    found: dict[str, torch.Tensor] = {}
    for name, gradient in ours.items():
        mapping = by_name[name]
        rows = mapping.tensor.shape[0]
        found |= zip(mapping.names, mapping.split(gradient[:rows]), strict=True)
    return found


def _source(mappings: Iterable[Mapping]) -> Callable[[WholeTensor], torch.Tensor]:
    by_tensor = {(mapping.tensor.key, mapping.tensor.layer): mapping for mapping in mappings}

    def source(tensor: WholeTensor) -> torch.Tensor:
        # A vision encoder on its own leaves out its place in the whole model.
        key = tensor.key if (tensor.key, tensor.layer) in by_tensor else f"vision_model.{tensor.key}"
        mapping = by_tensor[key, tensor.layer]
        parts = [formula(name, *shape) for name, shape in zip(mapping.names, mapping.shapes, strict=True)]
        values = mapping.merge(parts)
        padding = tensor.shape[0] - values.size(0)
        return torch.cat([values, values.new_zeros(padding, *values.shape[1:])]) if padding else values

    return source


def _parameter(tensor: WholeTensor) -> str:
    """What a module calls one of its tensors: layers have their number in the name."""
    return tensor.key if tensor.layer is None else tensor.key.replace("layers.", f"layers.{tensor.layer}.", 1)
