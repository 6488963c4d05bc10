"""Small models of every kind that the tables know, and random weights for them."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import torch

from internvl_trainer.contract.catalog import LanguageGeometry, ModelGeometry, VisionGeometry
from internvl_trainer.convert import tables
from internvl_trainer.convert.mapping import Layout, Mapping
from internvl_trainer.convert.safetensors_file import TensorSpec
from internvl_trainer.convert.write_config import documents
from internvl_trainer.convert.write_folder import write_folder

IMAGE_TOKEN = 5

PLAIN_VIT = VisionGeometry(layers=2, hidden=32, heads=2, ffn=64, image_size=56)
LARGE_VIT = VisionGeometry(
    layers=2, hidden=80, heads=5, ffn=96, image_size=56, norm="rmsnorm", qkv_bias=False, qk_norm=True
)
"""In the 6B's style: RMSNorm, no qkv bias, norms of q and k, a number of heads that no power of two divides."""

QWEN = LanguageGeometry(
    family="qwen2.5", layers=2, hidden=48, heads=6, kv_heads=2, head_dim=8, ffn=40, vocab_size=67, max_positions=512
)
INTERNLM = LanguageGeometry(
    family="internlm2.5", layers=2, hidden=48, heads=6, kv_heads=3, head_dim=8, ffn=40, vocab_size=67,
    norm_eps=1e-5, qkv_bias=False, max_positions=512,
)  # fmt: skip

MODELS = tuple(
    ModelGeometry(name=f"{vit}-vit-{language.family}", vision=vision, language=language)
    for vit, vision in (("plain", PLAIN_VIT), ("large", LARGE_VIT))
    for language in (QWEN, INTERNLM)
)


def values(shape: tuple[int, ...], seed: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Random numbers, no two tensors alike."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def tensor_specs(mappings: Iterable[Mapping], dtype: torch.dtype) -> tuple[TensorSpec, ...]:
    """What a folder of these mappings holds: mapping by mapping, each one's names in order."""
    return tuple(
        TensorSpec(name, shape, dtype)
        for mapping in mappings
        for name, shape in zip(mapping.names, mapping.shapes, strict=True)
    )


def our_tensors(model: ModelGeometry, dtype: torch.dtype = torch.float32) -> dict[tuple[str, int | None], torch.Tensor]:
    """Random values of every tensor of our checkpoint, by key and layer."""
    ours = (mapping.tensor for mapping in tables.mappings(model, Layout.NATIVE))
    return {(key, layer): values(shape, seed, dtype) for seed, (key, layer, shape) in enumerate(ours)}


def write(
    folder: Path, model: ModelGeometry, layout: Layout, *, dtype: torch.dtype = torch.float32, max_shard: int = 10**9
) -> dict[tuple[str, int | None], torch.Tensor]:
    """A folder of this model with random weights; returns them as ours."""
    ours = our_tensors(model, dtype)
    mappings = tuple(tables.mappings(model, layout))

    def tensors() -> Iterator[tuple[str, torch.Tensor]]:
        for mapping in mappings:
            tensor = ours[mapping.tensor.key, mapping.tensor.layer]
            yield from zip(mapping.names, mapping.split(tensor), strict=True)

    name = str(dtype).removeprefix("torch.")
    files = documents(model, layout, dtype=name, image_token=IMAGE_TOKEN)
    write_folder(folder, tensor_specs(mappings, dtype), tensors(), files, max_shard=max_shard)
    return ours
