"""Whole tensors by their checkpoint keys, and the random values that each of them starts from. Needs torch alone.

A tensor's values are a function of the run's seed, its key and its layer, so nothing else of the model has to exist.
"""

import hashlib
import math

import torch

from internvl_trainer.contract.base import Component
from internvl_trainer.contract.catalog import ModelGeometry
from internvl_trainer.contract.tensors import WholeTensor, prefix_of

STD = 0.02
"""Standard deviation of matrices and embeddings; matrices that write to a residual get STD / sqrt(2 * layers)."""


def draw(geometry: ModelGeometry, seed: int, tensor: WholeTensor) -> torch.Tensor:
    """The random start of a whole tensor, in float32; rows that only pad the vocabulary are zero."""
    name = tensor.key.rsplit(".", 1)[-1]
    if name in ("ls1", "ls2"):
        return torch.full(tensor.shape, geometry.vision.layer_scale_init)
    if "bias" in name:
        return torch.zeros(tensor.shape)
    if "norm" in tensor.key:
        return torch.ones(tensor.shape)
    rows, *columns = tensor.shape
    if "word_embeddings" in tensor.key or "output_layer" in tensor.key:
        rows = geometry.language.vocab_size
    digest = hashlib.sha256(f"initialise/{seed}/{tensor.key}/{tensor.layer}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    drawn = torch.empty(rows, *columns).normal_(std=_std(geometry, tensor.key), generator=generator)
    padding = tensor.shape[0] - rows
    return torch.cat([drawn, torch.zeros(padding, *columns)]) if padding else drawn


def _std(geometry: ModelGeometry, key: str) -> float:
    if "linear_proj" not in key and "linear_fc2" not in key:
        return STD
    layers = geometry.vision.layers if key.startswith(prefix_of(Component.VISION)) else geometry.language.layers
    return STD / math.sqrt(2 * layers)
