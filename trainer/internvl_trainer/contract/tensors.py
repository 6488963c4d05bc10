"""What a tensor of a checkpoint is called, whatever the process grid that wrote it."""

from typing import NamedTuple

Shape = tuple[int, ...]


class WholeTensor(NamedTuple):
    """A tensor as a checkpoint knows it.

    `layer` counts over all pipeline stages; None where the tensor is not part of a stack of layers. `shape` is of one
    layer; embedding and head may have rows at the end that only pad the vocabulary.
    """

    key: str
    layer: int | None
    shape: Shape
