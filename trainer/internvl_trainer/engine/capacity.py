"""Whether a job fits on its devices, said before anything is built."""

import logging

import torch
from megatron.core import parallel_state

from internvl_trainer.contract.job import JobConfig
from internvl_trainer.contract.memory import estimate_memory, memory_problem
from internvl_trainer.engine.errors import DeviceMemoryError

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
