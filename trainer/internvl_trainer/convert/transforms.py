"""How the elements of Hugging Face tensors are arranged in one of ours.

Every transform is a permutation of elements, the same on weights [rows, columns] and biases [rows]: nothing is
computed, so `split` is the exact inverse of `merge` in every dtype.

Shapes: R rows, N heads, G key-value groups, D head dim; `...` stands for the columns, if there are any.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from internvl_trainer.contract.tensors import Shape


class Transform(Protocol):
    """From the tensors of `names`, in that order, to one tensor of ours, and back.

    Names may hold `{i}`, which stands for the layer.
    """

    @property
    def names(self) -> tuple[str, ...]: ...

    def shapes(self, ours: Shape) -> tuple[Shape, ...]:
        """Shapes of the tensors of `names`, where our tensor has shape `ours`."""
        ...

    def merge(self, parts: Sequence[torch.Tensor]) -> torch.Tensor: ...

    def split(self, ours: torch.Tensor) -> tuple[torch.Tensor, ...]: ...


@dataclass(frozen=True)
class _OfOne:
    """What transforms of a single tensor have in common; its shape is ours unless they say otherwise."""

    name: str

    @property
    def names(self) -> tuple[str, ...]:
        """The one name."""
        return (self.name,)

    def shapes(self, ours: Shape) -> tuple[Shape, ...]:
        """See `Transform`."""
        return (ours,)


class Same(_OfOne):
    """One tensor, as it is."""

    def merge(self, parts: Sequence[torch.Tensor]) -> torch.Tensor:
        """See `Transform`."""
        (part,) = parts
        return part

    def split(self, ours: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """See `Transform`."""
        return (ours,)


@dataclass(frozen=True)
class LeadingOnes(_OfOne):
    """One tensor that has `axes` axes of length 1 in front there and none here: class token and positions."""

    axes: int

    def shapes(self, ours: Shape) -> tuple[Shape, ...]:
        """See `Transform`."""
        return ((1,) * self.axes + ours,)

    def merge(self, parts: Sequence[torch.Tensor]) -> torch.Tensor:
        """See `Transform`."""
        (part,) = parts
        return part.reshape(part.shape[self.axes :])

    def split(self, ours: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """See `Transform`."""
        return (ours.reshape(self.shapes(tuple(ours.shape))[0]),)


@dataclass(frozen=True)
class Stacked:
    """Matrices of equal size, one below the other: the gate's rows, then the up projection's."""

    names: tuple[str, ...]

    def shapes(self, ours: Shape) -> tuple[Shape, ...]:
        """See `Transform`."""
        return ((ours[0] // len(self.names), *ours[1:]),) * len(self.names)

    def merge(self, parts: Sequence[torch.Tensor]) -> torch.Tensor:
        """See `Transform`."""
        return torch.cat(list(parts))

    def split(self, ours: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """See `Transform`."""
        return ours.chunk(len(self.names))


@dataclass(frozen=True)
class QKVPerHead(_OfOne):
    """One fused matrix of rows [all q | all k | all v] there; here, as megatron has it, q, k, v head by head."""

    heads: int

    def merge(self, parts: Sequence[torch.Tensor]) -> torch.Tensor:
        """[3 N D, ...] by q, k, v -> [N 3 D, ...]."""
        (fused,) = parts
        return fused.reshape(3, self.heads, -1, *fused.shape[1:]).transpose(0, 1).flatten(0, 2)

    def split(self, ours: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """[N 3 D, ...] -> [3 N D, ...] by q, k, v."""
        return (ours.reshape(self.heads, 3, -1, *ours.shape[1:]).transpose(0, 1).flatten(0, 2),)


@dataclass(frozen=True)
class GroupedQKV:
    """Three matrices there; here one of rows grouped per key-value head: its query heads, then its k, then its v."""

    names: tuple[str, str, str]
    groups: int
    head_dim: int

    def shapes(self, ours: Shape) -> tuple[Shape, ...]:
        """See `Transform`."""
        keys = self.groups * self.head_dim
        return (ours[0] - 2 * keys, *ours[1:]), (keys, *ours[1:]), (keys, *ours[1:])

    def merge(self, parts: Sequence[torch.Tensor]) -> torch.Tensor:
        """q [N D, ...], k and v [G D, ...] -> [(N + 2 G) D, ...]."""
        grouped = [part.reshape(self.groups, -1, *part.shape[1:]) for part in parts]
        return torch.cat(grouped, dim=1).flatten(0, 1)

    def split(self, ours: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """[(N + 2 G) D, ...] -> q [N D, ...], k and v [G D, ...]."""
        grouped = ours.reshape(self.groups, -1, *ours.shape[1:])
        queries = grouped.size(1) - 2 * self.head_dim
        parts = torch.split(grouped, [queries, self.head_dim, self.head_dim], dim=1)
        return tuple(part.flatten(0, 1) for part in parts)
