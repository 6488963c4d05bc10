"""What a table of one architecture says, and the mappings that it stands for.

A table's row names one tensor of our checkpoint and, for each layout, the Hugging Face tensors that it is made of.
Reading a table needs no torch run: names and shapes are known before any tensor is.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

import torch

from internvl_trainer.contract.tensors import Shape, WholeTensor
from internvl_trainer.convert.errors import TensorShapeError
from internvl_trainer.convert.transforms import Transform


class Layout(StrEnum):
    """Two ways in which InternVL checkpoints lie in Hugging Face folders."""

    NATIVE = "native"
    """OpenGVLab's: `InternVLChatModel`."""
    TRANSFORMERS = "transformers"
    """`InternVLForConditionalGeneration`, the folders whose names end in -hf, under the names of its saved files."""


@dataclass(frozen=True)
class Mapping:
    """One tensor of our checkpoint and the Hugging Face tensors that hold the same elements.

    `names` and `shapes` belong together; `tensor.shape` has the vocabulary as it is, without padding.
    """

    tensor: WholeTensor
    names: tuple[str, ...]
    shapes: tuple[Shape, ...]
    transform: Transform

    def merge(self, parts: Sequence[torch.Tensor]) -> torch.Tensor:
        """Our tensor from those of `names`, in that order; may share their memory.

        Raises:
            TensorShapeError: names the tensor that has another shape than the model's geometry gives it.
        """
        for name, shape, part in zip(self.names, self.shapes, parts, strict=True):
            check_shape(name, tuple(part.shape), shape)
        return self.transform.merge(parts)

    def split(self, ours: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The tensors of `names` from ours; they may share its memory and need not be contiguous.

        Raises:
            TensorShapeError: our tensor has another shape than `tensor` says.
        """
        check_shape(self.tensor.key, tuple(ours.shape), self.tensor.shape)
        return self.transform.split(ours)


class Row(NamedTuple):
    """One tensor of ours, of `shape`, and how each layout has it. Names are relative to the table's or stack's."""

    key: str
    shape: Shape
    native: Transform
    transformers: Transform


class Stack(NamedTuple):
    """Rows that every layer of a stack has; layout names hold `{i}`, keys do not: layers share a key."""

    layers: int
    key: str
    native: str
    transformers: str
    rows: tuple[Row, ...]


class Table(NamedTuple):
    """All tensors of one component: what its names begin with, tensors outside of layers, and the layers."""

    key: str
    native: str
    transformers: str
    rows: tuple[Row, ...]
    stack: Stack | None = None

    def mappings(self, layout: Layout, *, bare: bool = False) -> Iterator[Mapping]:
        """One per tensor of ours.

        Args:
            layout: whose names.
            bare: as in a folder that holds this component alone, where names lack the component's prefix.
        """
        prefix = "" if bare else self._of(self, layout)
        for row in self.rows:
            yield _mapping(self.key, prefix, row, layout, None)
        if self.stack is None:
            return
        key, prefix = self.key + self.stack.key, prefix + self._of(self.stack, layout)
        for layer in range(self.stack.layers):
            for row in self.stack.rows:
                yield _mapping(key, prefix, row, layout, layer)

    @staticmethod
    def _of(place: "Table | Stack", layout: Layout) -> str:
        return place.native if layout is Layout.NATIVE else place.transformers


def _mapping(key: str, prefix: str, row: Row, layout: Layout, layer: int | None) -> Mapping:
    transform = row.native if layout is Layout.NATIVE else row.transformers
    names = tuple((prefix + name).replace("{i}", str(layer)) for name in transform.names)
    tensor = WholeTensor(key + row.key, layer, row.shape)
    return Mapping(tensor, names, transform.shapes(row.shape), transform)


def check_shape(name: str, found: Shape, shape: Shape) -> None:
    """Whether a tensor has the shape that the model's geometry gives it.

    Raises:
        TensorShapeError: it has another.
    """
    if found != shape:
        raise TensorShapeError(
            f"tensor {name} has shape {found}, the model's geometry gives it {shape}; "
            "check that the folder's config.json belongs to its weights"
        )
