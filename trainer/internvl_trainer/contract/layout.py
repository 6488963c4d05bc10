"""Which process grids a model can be cut to: the rule that the operator refuses specs by and the trainer jobs."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from internvl_trainer.contract.catalog import ModelGeometry
from internvl_trainer.contract.job import PartitionConfig
from internvl_trainer.contract.manifest import ParallelLayout


@dataclass(frozen=True)
class SplitProblem:
    """Layers of a language model that pipeline stages cannot be filled with as asked for."""

    axis: Literal["pipeline", "pipeline_layers"]
    """The field of the layout, or of the partition, that is wrong."""
    reason: str
    """What is wrong, and what would be right."""

    def __str__(self) -> str:
        return self.reason


@dataclass(frozen=True)
class LayoutProblem:
    """One count of a model that an axis of the process grid cannot share evenly."""

    axis: Literal["tensor"]
    """The field of the layout that is wrong."""
    field: str
    """The field of the geometry that it does not divide, such as `language.heads`."""
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


def layout_problems(
    model: ModelGeometry,
    layout: ParallelLayout,
    partition: PartitionConfig = PartitionConfig(),  # noqa: B008  (frozen)
) -> tuple[LayoutProblem | SplitProblem, ...]:
    """All that keeps a model from being cut to a process grid; empty where it can be.

    Tensor parallelism splits heads and MLP channels of the language model, and either splits the key-value heads or
    repeats each of them on equally many ranks. Of the vision encoder it splits the MLP channels and any number of
    heads, evenly or not; or, where `partition` says so, the tiles alone. Pipeline parallelism gives each stage some
    language layers in a row, not always equally many; the vision encoder is on the first stage, whole, and may be all
    of it.
    """
    problems: list[LayoutProblem | SplitProblem] = []
    for cut in _cuts(model, partition):
        if not cut.fits(cut.value, layout.tensor):
            allowed = _allowed(model, partition)
            problems.append(LayoutProblem("tensor", cut.field, cut.what, cut.value, layout.tensor, allowed))
    problems.extend(_pipeline_problems(model.language.layers, layout.pipeline, partition.pipeline_layers))
    return tuple(problems)


def head_slots(heads: int, ranks: int) -> int:
    """Attention heads inside a vision encoder whose weights `ranks` ranks share: filled up to a multiple of the ranks.

    25 heads take 26, 28 and 32 slots at 2, 4 and 8 ranks; slots beyond the true heads hold zeros and cost like others.
    """
    return -(-heads // ranks) * ranks


@dataclass(frozen=True)
class _Cut:
    field: str
    what: str
    value: int
    fits: Callable[[int, int], bool]


def _cuts(model: ModelGeometry, partition: PartitionConfig) -> list[_Cut]:
    vision, language = model.vision, model.language
    encoder = [_Cut("vision.ffn", "MLP channels of the vision encoder", vision.ffn, _divides)]
    return [
        *(encoder if partition.vision == "tensor" else []),
        _Cut("language.heads", "attention heads of the language model", language.heads, _divides),
        _Cut("language.ffn", "MLP channels of the language model", language.ffn, _divides),
        _Cut("language.kv_heads", "key-value heads of the language model", language.kv_heads, _divides_or_repeats),
    ]


def _allowed(model: ModelGeometry, partition: PartitionConfig) -> tuple[int, ...]:
    cuts = _cuts(model, partition)
    most = min(cut.value for cut in cuts if cut.fits is _divides)
    return tuple(size for size in range(1, most + 1) if all(cut.fits(cut.value, size) for cut in cuts))


def _divides(value: int, size: int) -> bool:
    return value % size == 0


def _divides_or_repeats(value: int, size: int) -> bool:
    return max(value, size) % min(value, size) == 0


def _pipeline_problems(layers: int, stages: int, asked: tuple[int, ...] | None) -> list[SplitProblem]:
    problems = []
    if stages > layers + 1:
        problems.append(
            SplitProblem(
                "pipeline",
                f"{stages} pipeline stages are more than the vision encoder and the {layers} layers of the language "
                f"model (language.layers) can fill; pipeline can be 1 to {layers + 1}",
            )
        )
    if asked is None:
        return problems
    listed = ", ".join(map(str, asked))
    if len(asked) != stages:
        problems.append(
            SplitProblem(
                "pipeline_layers",
                f"[{listed}] has {len(asked)} numbers for {stages} pipeline stages; give each stage its number of "
                "language layers, or leave all out to have them computed",
            )
        )
    if sum(asked) != layers:
        problems.append(
            SplitProblem(
                "pipeline_layers",
                f"[{listed}] has the sum {sum(asked)}, but the language model has {layers} layers (language.layers); "
                "give numbers that add up to them, or leave all out to have them computed",
            )
        )
    return problems
