"""What the cost of training depends on: the common part of a job and of the operator's plan for a stage."""

from typing import Protocol

from internvl_trainer.contract.base import Component
from internvl_trainer.contract.catalog import ModelGeometry
from internvl_trainer.contract.job import DataConfig, OptimizationConfig, PartitionConfig, RecomputeConfig
from internvl_trainer.contract.manifest import ParallelLayout


class Workload(Protocol):
    """A stage as cost, balance and memory see it. A JobConfig is one."""

    @property
    def model(self) -> ModelGeometry: ...
    @property
    def layout(self) -> ParallelLayout: ...
    @property
    def partition(self) -> PartitionConfig: ...
    @property
    def recompute(self) -> RecomputeConfig: ...
    @property
    def trainable(self) -> tuple[Component, ...]: ...
    @property
    def data(self) -> DataConfig: ...
    @property
    def optimization(self) -> OptimizationConfig: ...
