"""Which process grids a model can be cut to: the rule that the operator refuses specs by and the trainer jobs."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from internvl_trainer.contract.catalog import ModelGeometry
from internvl_trainer.contract.manifest import ParallelLayout

Axis = Literal["tensor", "pipeline"]


@dataclass(frozen=True)
class LayoutProblem:
    """One count of a model that an axis of the process grid cannot share evenly."""

    axis: Axis
    """The field of the layout that is wrong."""
    field: str
    """The field of the geometry that it does not divide, such as `vision.heads`."""
    what: str
    value: int
    divisor: int
    allowed: tuple[int, ...]
    """All sizes of the axis that the model can be cut to."""

    def __str__(self) -> str:
        sizes = ", ".join(map(str, self.allowed))
        return (
            f"the {self.value} {self.what} ({self.field}) cannot be shared evenly by {self.divisor} "
            f"{self.axis}-parallel ranks; {self.axis} can be {sizes}"
        )


def layout_problems(model: ModelGeometry, layout: ParallelLayout) -> tuple[LayoutProblem, ...]:
    """All that keeps a model from being cut to a process grid; empty where it can be.

    Tensor parallelism splits heads and MLP channels of vision encoder and language model alike, and either splits the
    key-value heads or repeats each of them on equally many ranks. Pipeline parallelism gives each stage equally many
    language layers; the vision encoder is on the first stage, whole.
    """
    axes: tuple[tuple[Axis, int], ...] = (("tensor", layout.tensor), ("pipeline", layout.pipeline))
    problems = []
    for axis, size in axes:
        for cut in _cuts(model, axis):
            if not cut.fits(cut.value, size):
                problems.append(LayoutProblem(axis, cut.field, cut.what, cut.value, size, _allowed(model, axis)))
    return tuple(problems)


@dataclass(frozen=True)
class _Cut:
    field: str
    what: str
    value: int
    fits: Callable[[int, int], bool]


def _cuts(model: ModelGeometry, axis: Axis) -> list[_Cut]:
    vision, language = model.vision, model.language
    if axis == "pipeline":
        return [_Cut("language.layers", "layers of the language model", language.layers, _divides)]
    return [
        _Cut("vision.heads", "attention heads of the vision encoder", vision.heads, _divides),
        _Cut("vision.ffn", "MLP channels of the vision encoder", vision.ffn, _divides),
        _Cut("language.heads", "attention heads of the language model", language.heads, _divides),
        _Cut("language.ffn", "MLP channels of the language model", language.ffn, _divides),
        _Cut("language.kv_heads", "key-value heads of the language model", language.kv_heads, _divides_or_repeats),
    ]


def _allowed(model: ModelGeometry, axis: Axis) -> tuple[int, ...]:
    cuts = _cuts(model, axis)
    most = min(cut.value for cut in cuts if cut.fits is _divides)
    return tuple(size for size in range(1, most + 1) if all(cut.fits(cut.value, size) for cut in cuts))


def _divides(value: int, size: int) -> bool:
    return value % size == 0


def _divides_or_repeats(value: int, size: int) -> bool:
    return max(value, size) % min(value, size) == 0
