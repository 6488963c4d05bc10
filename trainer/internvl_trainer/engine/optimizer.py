"""AdamW on megatron.core, its state whole on every data-parallel replica or shared out among them.

Shared out ("sharded"; ZeRO stage 1, Rajbhandari et al. 2020, arXiv:1910.02054, section 5.1): gradients are summed by a
reduce-scatter, each of D replicas updates the D-th part of the parameters that it has float32 weights and moments of,
and an all-gather brings the updated weights to all. A parameter takes 2 + 4 + 12 / D bytes in bf16 training (weight,
float32 gradient, optimizer state) in place of 18; sums and updates are those of the other way.
"""

from typing import Literal

import torch
from megatron.core import parallel_state
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig
from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer
from megatron.core.optimizer.optimizer import MegatronOptimizer
from megatron.core.optimizer.optimizer_config import ParamKey, ParamPredicate
from megatron.core.optimizer_param_scheduler import ParamGroupOverride
from megatron.core.transformer.module import MegatronModule

from internvl_trainer.contract.job import OptimizationConfig

Spread = Literal["sharded", "replicated"]
"""How the optimizer's state is spread over data-parallel replicas."""


def data_parallel(model: MegatronModule, spread: Spread) -> DistributedDataParallel:
    """Buffers for the gradients of a model's trainable parameters, and their sum over data-parallel replicas.

    A single replica keeps all state whichever way is asked for, and megatron's simpler optimizer with it.

    Communication does not overlap computation. megatron waits for gathered weights in hooks of `forward`, and some of
    ours are used without; it starts to sum a gradient once as many parts of it have come as in the first step, and
    where layers or pieces of the loss are run again in the backward pass that number can differ from pack to pack.
    """
    replicas = parallel_state.get_data_parallel_group()
    settings = DistributedDataParallelConfig(
        grad_reduce_in_fp32=True,
        use_distributed_optimizer=spread == "sharded" and replicas.size() > 1,
        average_in_collective=False,  # the loss is normalised already, and gloo knows no average
    )
    layout = None
    if settings.use_distributed_optimizer:
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        layout = DistributedOptimizer.compute_full_param_layout(trained, None, replicas.size(), settings)
    return DistributedDataParallel(model.config, settings, model, full_param_layout=layout)


def build_optimizer(
    config: OptimizationConfig, dtype: torch.dtype, model: DistributedDataParallel
) -> MegatronOptimizer:
    """AdamW over all trainable parameters, weight decay on those of `config.decay_scope`.

    The released InternVL recipes train under DeepSpeed with one flat parameter group, so norms, biases, layer scale
    and embeddings decay too: scope `all`. Without overrides of ours megatron would exempt one-dimensional parameters.
    """
    overrides: dict[ParamKey, ParamGroupOverride] = {}
    if config.decay_scope == "matrices":
        has_one_axis = ParamPredicate("has_one_axis", lambda parameter: parameter.dim() < 2)
        overrides[ParamKey(predicate=has_one_axis)] = ParamGroupOverride(wd_mult=0.0)
    optimizer = get_megatron_optimizer(
        OptimizerConfig(
            optimizer="adam",
            lr=config.peak_lr,
            min_lr=config.min_lr,
            weight_decay=config.weight_decay,
            adam_beta1=config.beta1,
            adam_beta2=config.beta2,
            adam_eps=config.eps,
            clip_grad=config.clip_grad_norm,
            bf16=dtype is torch.bfloat16,
            params_dtype=dtype,
            use_distributed_optimizer=model.ddp_config.use_distributed_optimizer,
        ),
        [model],
        config_overrides=overrides,
        use_gloo_process_groups=False,
    )
    for group in optimizer.param_groups:
        # megatron leaves this to its own scheduler, in whose place the loop sets the learning rate.
        group["weight_decay"] = config.weight_decay * group["wd_mult"]
    return optimizer
