"""From a job's wish to the core attention of the language model's and of the vision encoder's layers."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch

from internvl_trainer.contract.catalog import ModelGeometry
from internvl_trainer.contract.job import Attention
from internvl_trainer.model.attention.core import Kernel, SegmentAttention
from internvl_trainer.model.attention.flash_attention import FlashAttention
from internvl_trainer.model.attention.loading import installed
from internvl_trainer.model.attention.reference import Reference
from internvl_trainer.model.attention.selection import Backend, choose
from internvl_trainer.model.attention.torch_native import Torch
from internvl_trainer.model.attention.transformer_engine import transformer_engine_attention

KERNELS: dict[Backend, Callable[[], Kernel]] = {
    "flash-attention-3": partial(FlashAttention, "flash-attention-3", "flash_attn_interface"),
    "flash-attention-2": partial(FlashAttention, "flash-attention-2", "flash_attn"),
    "torch": Torch,
    "reference": Reference,
}
"""The back-ends behind `Kernel`; Transformer Engine brings a core attention of its own."""


class Backends(NamedTuple):
    """What runs: over the segments of packs in the language model, inside tiles in the vision encoder."""

    language: Backend
    vision: Backend

    def __str__(self) -> str:
        return f"{self.language} over packs, {self.vision} inside tiles"


TORCH = Backends(language="torch", vision="torch")
"""What runs everywhere."""


def select(wanted: Attention, geometry: ModelGeometry, device: torch.device, dtype: torch.dtype) -> Backends:
    """The back-ends for one model on one device, by what is installed.

    Raises:
        AttentionUnavailableError: what is wanted cannot run here.
    """
    capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else None
    return choose_both(wanted, geometry, installed(), device_type=device.type, capability=capability, dtype=dtype)


def choose_both(
    wanted: Attention,
    geometry: ModelGeometry,
    available: frozenset[Backend],
    *,
    device_type: str,
    capability: tuple[int, int] | None,
    dtype: torch.dtype,
) -> Backends:
    """`choose` for both parts of a model.

    Tiles are full batches without a mask. Transformer Engine has nothing for them that the others have not, so where
    it is wanted they go through torch's flash kernel.
    """
    decide = partial(choose, device_type=device_type, capability=capability, dtype=dtype)
    inside_tiles: Attention = "torch" if wanted == "transformer-engine" else wanted
    return Backends(
        language=decide(wanted, available, head_dim=geometry.language.head_dim),
        vision=decide(
            inside_tiles,
            available - {"transformer-engine"},
            head_dim=geometry.vision.hidden // geometry.vision.heads,
        ),
    )


def language_attention(backends: Backends) -> Any:
    """What a decoder layer's spec takes as `core_attention`."""
    if backends.language == "transformer-engine":
        return transformer_engine_attention()
    return partial(SegmentAttention, kernel=KERNELS[backends.language]())


def vision_attention(backends: Backends) -> Any:
    """What an InternViT layer's spec takes as `core_attention`."""
    return partial(SegmentAttention, kernel=KERNELS[backends.vision]())
