"""Whether a job's pipeline balances and its stages fit on their devices, said before anything is built."""

import logging

import torch
from megatron.core import parallel_state

from internvl_trainer.contract.job import JobConfig, PartitionConfig
from internvl_trainer.contract.memory import estimate_memory, memory_problem
from internvl_trainer.contract.pipeline import job_balance_problem, job_layers
from internvl_trainer.engine.errors import DeviceMemoryError
from internvl_trainer.model.errors import LayoutError

logger = logging.getLogger(__name__)


def check_capacity(job: JobConfig, device: torch.device) -> None:
    """Log what each pipeline stage is going to need, once per stage; on CUDA, refuse what a device cannot hold.

    All ranks of a stage come to the same answer by themselves. The host's memory is shared with who knows whom, so
    on CPU nothing is refused.

    Raises:
        DeviceMemoryError: a stage needs more than its devices have; says what for.
    """
    stages = estimate_memory(job)
    speaks = parallel_state.get_tensor_model_parallel_rank() == 0 and parallel_state.get_data_parallel_rank() == 0
    if speaks:
        logger.info("%s", stages[parallel_state.get_pipeline_model_parallel_rank()])
    if device.type != "cuda":
        return
    problem = memory_problem(stages, torch.cuda.get_device_properties(device).total_memory)
    if problem is not None:
        raise DeviceMemoryError(problem)


def settled_partition(job: JobConfig) -> PartitionConfig:
    """The job's partition, with the language layers of each pipeline stage computed where it does not say them.

    Raises:
        LayoutError: a pipeline of that length cannot balance.
    """
    problem = job_balance_problem(job)
    if problem is not None:
        raise LayoutError(job.model.name, [problem])
    return job.partition.model_copy(update={"pipeline_layers": job_layers(job)})
