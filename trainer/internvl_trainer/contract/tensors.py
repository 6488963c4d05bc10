"""What a tensor of a checkpoint is called, whatever the process grid that wrote it."""

from typing import NamedTuple

from internvl_trainer.contract.base import Component

Shape = tuple[int, ...]

MODULES = {
    Component.VISION: "vision_model",
    Component.PROJECTOR: "projector",
    Component.LANGUAGE: "language_model",
}
"""First segment of every key, per component, which is also the name of its module in the model."""


def prefix_of(component: Component) -> str:
    """What the keys of a component's tensors begin with."""
    return f"{MODULES[component]}."


class WholeTensor(NamedTuple):
    """A tensor as a checkpoint knows it.

    `layer` counts over all pipeline stages; None where the tensor is not part of a stack of layers. `shape` is of one
    layer; embedding and head may have rows at the end that only pad the vocabulary.
    """

    key: str
    layer: int | None
    shape: Shape
