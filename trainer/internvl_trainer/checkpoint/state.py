"""What a checkpoint knows of training besides tensors: torch-free."""

from collections.abc import Iterable
from dataclasses import dataclass

from internvl_trainer.contract.base import Contract
from internvl_trainer.contract.data_position import DataPosition


class StepMetrics(Contract):
    """One optimizer step of the whole job: a line of metrics.jsonl."""

    step: int
    """Finished steps after this one: 1 for the first."""
    loss: float
    """The weighted mean that the optimizer saw."""
    grad_norm: float
    """Before clipping."""
    learning_rate: float
    tokens: int
    """Tokens of this step, padding excluded."""
    tiles: int
    skipped: int = 0
    """Samples left out of this step's packs because they could not be read."""
    seconds: float
    """Wall clock of this step."""


@dataclass(frozen=True)
class TrainState:
    """Where training stands.

    Attributes:
        step: finished optimizer steps of the stage.
        tokens: tokens trained on in the stage, padding excluded.
        data: where the stage stands in its data.
        metrics: one entry for each step since the stage began, oldest first.
    """

    step: int
    tokens: int
    data: DataPosition
    metrics: tuple[StepMetrics, ...]


def to_lines(metrics: Iterable[StepMetrics]) -> bytes:
    """The content of metrics.jsonl."""
    return b"".join(metric.model_dump_json().encode() + b"\n" for metric in metrics)


def from_lines(payload: bytes) -> tuple[StepMetrics, ...]:
    """Parse `to_lines` output.

    Raises:
        pydantic.ValidationError: a line is no StepMetrics.
    """
    return tuple(StepMetrics.from_bytes(line) for line in payload.splitlines())
