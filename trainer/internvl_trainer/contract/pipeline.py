"""How many language layers each pipeline stage gets, from what the stages cost.

Vision encoder, projector and embedding are on the first stage, whole; the head is on the last. A pipeline is as fast
as its slowest stage, so layers go where there is room, and a pipeline that one indivisible part alone would hold up is
refused. Cost is in floating point operations as the devices do them: the stage's trainable parts, recompute and
padding included (contract/flops.py).
"""

from collections.abc import Collection
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar, Literal

from internvl_trainer.contract.base import Component
from internvl_trainer.contract.catalog import ModelGeometry
from internvl_trainer.contract.flops import PackLoad, hardware_passes, sharded_flops
from internvl_trainer.contract.job import PartitionConfig, RecomputeConfig
from internvl_trainer.contract.workload import Workload

TOLERANCE = Fraction(5, 4)
"""How many times the mean cost of a stage one indivisible part may cost.

For stage 2 at 16,384 tokens and 48 tiles this admits InternVL2_5-26B up to 2 stages, 38B up to 3 (there the vision
side's 35.3 layers' worth exceeds the mean of 33.2 by 6 %; a split without any loss ends at 2), and 78B up to 6 (19.7
against 16.7; without any loss 5).
"""


@dataclass(frozen=True)
class PipelineCost:
    """What is to be shared by pipeline stages, in any one unit: `first` and `last` are fixed to those stages."""

    first: int
    layer: int
    layers: int
    last: int

    @property
    def total(self) -> int:
        """The whole model."""
        return self.first + self.layers * self.layer + self.last

    def of_stages(self, layers: tuple[int, ...]) -> tuple[int, ...]:
        """Cost of each stage under a split."""
        costs = [count * self.layer for count in layers]
        costs[0] += self.first
        costs[-1] += self.last
        return tuple(costs)

    def in_layers(self, cost: int | Fraction) -> float:
        """A cost in units of one language layer."""
        return float(Fraction(cost, self.layer))


@dataclass(frozen=True)
class BalanceProblem:
    """A pipeline whose stages cannot cost about the same, because one part of the model cannot be divided further."""

    stages: int
    part: str
    part_layers: float
    """What that part costs, in language layers."""
    mean_layers: float
    """What a stage costs on average, in language layers."""
    most_stages: int
    """The longest pipeline that balances."""
    vision_trains: bool

    axis: ClassVar[Literal["pipeline"]] = "pipeline"
    """The field of the layout that is wrong."""

    def __str__(self) -> str:
        remedies = [
            f"lower pipeline to {self.most_stages}",
            "set pipelineLayers (in a job file: partition.pipeline_layers) to accept an uneven one",
        ]
        if self.part == VISION_SIDE:
            remedies.append("lower packTiles (in a job file: data.pack_tiles)")
            if self.vision_trains:
                remedies.append("freeze the vision encoder in this stage")
        return (
            f"{self.stages} pipeline stages cannot balance: {self.part} costs as much as {self.part_layers:.1f} "
            f"language layers and cannot be divided, but a stage's mean is {self.mean_layers:.1f}, and a part may "
            f"cost at most {float(TOLERANCE)} times that; {', or '.join(remedies)}"
        )


VISION_SIDE = "the vision side of the first stage"
ONE_LAYER = "one language layer"
HEAD = "the output head on the last stage"


def pipeline_cost(
    model: ModelGeometry,
    *,
    trainable: Collection[Component],
    recompute: RecomputeConfig,
    pack_tokens: int,
    pack_tiles: int,
    tensor: int = 1,
    partition: PartitionConfig | None = None,
) -> PipelineCost:
    """Operations of one full pack's training step, by where they must happen.

    Args:
        trainable, recompute: decide how often each part is computed.
        pack_tokens, pack_tiles: a pack at its limits is what is balanced for.
        tensor, partition: tensor parallelism divides all parts alike but for what it pads of the vision encoder.
    """
    load = PackLoad.full(model, pack_tokens, pack_tiles)
    flops = sharded_flops(model, load, tensor, partition or PartitionConfig())
    passes = hardware_passes(trainable, recompute)
    return PipelineCost(
        first=passes.vision * flops.vision + passes.projector * flops.projector,
        layer=passes.layers * flops.layer,
        layers=flops.layers,
        last=passes.head * flops.head,
    )


def balance(cost: PipelineCost, stages: int) -> tuple[int, ...]:
    """Language layers of each pipeline stage, such that the slowest stage costs least; a stage may have none.

    This computes and never refuses: `balance_problem` does.

    Layers are dealt out one by one, each to the stage that costs least so far, and to the latest of those that cost
    the same. As layers are alike, no split has a lower slowest stage; nor, among those with the same slowest, a lower
    second slowest, and so on. Equal stages get their odd layers at the end, since earlier stages keep activations of
    more micro-batches.
    """
    layers = [0] * stages
    for _ in range(cost.layers):
        costs = cost.of_stages(tuple(layers))
        layers[min(range(stages), key=lambda stage: (costs[stage], -stage))] += 1
    return tuple(layers)


def balance_problem(cost: PipelineCost, stages: int, *, vision_trains: bool) -> BalanceProblem | None:
    """Why a pipeline of this length cannot balance; None where it can. One stage always does."""
    most = _most_stages(cost)
    if stages <= most:
        return None
    part, worst = max(_indivisible(cost), key=lambda named: named[1])
    mean = cost.in_layers(Fraction(cost.total, stages))
    return BalanceProblem(stages, part, cost.in_layers(worst), mean, most, vision_trains)


def job_layers(job: Workload) -> tuple[int, ...]:
    """Language layers of each pipeline stage of a job: what it says itself, else `balance`."""
    return job.partition.pipeline_layers or balance(_job_cost(job), job.layout.pipeline)


def job_balance_problem(job: Workload) -> BalanceProblem | None:
    """`balance_problem` of a job; None where the job itself says how many layers each stage gets."""
    if job.partition.pipeline_layers is not None:
        return None
    vision_trains = Component.VISION in job.trainable
    return balance_problem(_job_cost(job), job.layout.pipeline, vision_trains=vision_trains)


def _job_cost(job: Workload) -> PipelineCost:
    return pipeline_cost(
        job.model,
        trainable=job.trainable,
        recompute=job.recompute,
        pack_tokens=job.data.pack_tokens,
        pack_tiles=job.data.pack_tiles,
        tensor=job.layout.tensor,
        partition=job.partition,
    )


def _indivisible(cost: PipelineCost) -> tuple[tuple[str, int], ...]:
    return (VISION_SIDE, cost.first), (ONE_LAYER, cost.layer), (HEAD, cost.last)


def _most_stages(cost: PipelineCost) -> int:
    """The longest pipeline whose mean stage, times the tolerance, has room for each indivisible part."""
    worst = max(part for _, part in _indivisible(cost))
    return max(1, int(TOLERANCE * cost.total / worst))
