"""The arithmetic of the process grid: does tensor * pipeline * data fit the nodes and the model?"""

from typing import NamedTuple

from pydantic.alias_generators import to_camel

from internvl_operator.api.reasons import Reason
from internvl_operator.api.spec import ParallelismSpec, StageSpec, TrainingSpec
from internvl_operator.domain.problems import SpecProblem
from internvl_trainer.contract.catalog import ModelGeometry
from internvl_trainer.contract.job import PartitionConfig
from internvl_trainer.contract.layout import layout_problems
from internvl_trainer.contract.manifest import ParallelLayout
from internvl_trainer.contract.pipeline import job_balance_problem
from internvl_trainer.contract.workload import Workload


class Sizes(NamedTuple):
    """What a stage runs on, and which field the user would change."""

    parallelism: ParallelismSpec
    nodes: int
    processes_per_node: int
    field: str
    """Path of the parallelism that holds for the stage."""


def sizes(spec: TrainingSpec, stage: StageSpec) -> Sizes:
    """The sizes that hold for a stage: its own where it gives them, else the spec's."""
    own = stage.resources
    return Sizes(
        parallelism=stage.parallelism or spec.parallelism,
        nodes=(own and own.nodes) or spec.resources.nodes,
        processes_per_node=(own and own.processes_per_node) or spec.resources.processes_per_node,
        field=f"spec.stages[{stage.name}].parallelism" if stage.parallelism else "spec.parallelism",
    )


def partition(sizes: Sizes) -> PartitionConfig:
    """How the model is cut to the grid, beyond the grid's sizes."""
    asked = sizes.parallelism
    return PartitionConfig(
        vision=asked.vision,
        sequence=asked.sequence,
        pipeline_layers=asked.pipeline_layers,
        optimizer=asked.optimizer,
    )


def balance_problem(sizes: Sizes, workload: Workload) -> SpecProblem | None:
    """Why the pipeline of a stage would wait for one of its parts most of the time; None where it does not."""
    problem = job_balance_problem(workload)
    if problem is None:
        return None
    return _problem(f"{sizes.field}.{problem.axis}", f"{workload.model.name}: {problem}")


def layout(sizes: Sizes, model: ModelGeometry) -> tuple[ParallelLayout | None, list[SpecProblem]]:
    """The process grid of a stage, and why there is none: exactly one of the two says something."""
    tensor, pipeline = sizes.parallelism.tensor, sizes.parallelism.pipeline
    world = sizes.nodes * sizes.processes_per_node
    problems = _model_problems(sizes, model)
    if world % (tensor * pipeline):
        problems.append(
            _problem(
                f"{sizes.field}.tensor",
                f"tensor {tensor} * pipeline {pipeline} = {tensor * pipeline} does not divide nodes {sizes.nodes} * "
                f"processesPerNode {sizes.processes_per_node} = {world}",
            )
        )
        return None, problems
    data = world // (tensor * pipeline)
    if sizes.parallelism.data not in (0, data):
        problems.append(
            _problem(
                f"{sizes.field}.data",
                f"is {sizes.parallelism.data}, but {world} processes / (tensor {tensor} * pipeline {pipeline}) = "
                f"{data}; set 0 to have it derived",
            )
        )
    return (None if problems else ParallelLayout(tensor=tensor, pipeline=pipeline, data=data)), problems


def _model_problems(sizes: Sizes, model: ModelGeometry) -> list[SpecProblem]:
    grid = ParallelLayout(tensor=sizes.parallelism.tensor, pipeline=sizes.parallelism.pipeline)
    return [
        _problem(f"{sizes.field}.{to_camel(problem.axis)}", f"{model.name}: {problem}")
        for problem in layout_problems(model, grid, partition(sizes))
    ]


def _problem(field: str, problem: str) -> SpecProblem:
    return SpecProblem(field, problem, Reason.INVALID_PARALLELISM)
