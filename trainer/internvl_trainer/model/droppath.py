"""Stochastic depth (drop path) whose draws are a pure function of the place in training.

No random state has to be saved to resume, recompute sees the same draws as the forward pass, and all ranks of a
tensor-parallel group agree without talking.
"""

import hashlib
from typing import NamedTuple

import torch


class DropPathPlace(NamedTuple):
    """Where in training a forward pass stands: enough to draw its masks, at any process grid.

    `microbatch` is the micro-batch's position in the global batch, over all data-parallel ranks.
    """

    seed: int
    step: int
    microbatch: int


def layer_rates(rate: float, layers: int) -> list[float]:
    """Drop probability per layer: linear from 0 at the first layer to `rate` at the last."""
    return [rate * layer / max(1, layers - 1) for layer in range(layers)]


def branch_scales(rate: float, place: DropPathPlace, layer: int, tiles: int) -> torch.Tensor:
    """Factors of a layer's two residual branches, per tile.

    Args:
        rate: the layer's probability of dropping a branch, 0 <= rate < 1.
        layer: 0-based layer number.
        tiles: N.

    Returns:
        float32 [2, N] on the CPU: 0 where a tile's attention (row 0) or MLP (row 1) branch is dropped, else
        1/(1-rate), so that the expectation is kept.
    """
    text = f"drop-path/{place.seed}/{place.step}/{place.microbatch}/{layer}"
    digest = hashlib.sha256(text.encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    keep = torch.rand(2, tiles, generator=generator) >= rate
    return keep / (1 - rate)
