"""The optimizer's state in checkpoints: per parameter, whatever the process grid and however the state is spread.

Each tensor of state has the shape of its parameter and a key `optimizer.state.<kind>.<parameter's key>`; kinds are
`exp_avg`, `exp_avg_sq` and, in bf16 training, `fp32_param`. Those are the keys and tensors that megatron's optimizers
with replicated state give, so either kind of optimizer loads what the other one, or an earlier trainer, has saved.

A replica that owns a flat range of a parameter saves that range as a few boxes of the whole tensor, and loads it so,
in place: nobody gathers anything, each element is written by one process, and one that loads reads what it owns.
megatron.core 0.19.2's own way, DistributedOptimizer.sharded_state_dict as "fully_reshardable", is not used:

- It gathers the state of all replicas in the memory of each of their hosts, 12 bytes per parameter and process.
- Its offsets are those of the padded buffer, but what it gathers has no padding: in a buffer of several buckets
  all parameters behind the first padding get their neighbours' state, in silence.
- Without Transformer Engine or apex it cannot be loaded again: `state_dict()` refuses an optimizer that has made no
  step or owns no parameter (`assert len(steps) == 1`); `_set_main_param_and_optimizer_states` looks for a tensor "step"
  that was not saved (KeyError); and `load_state_dict` gives all parameters one and the same step tensor, which each of
  them then counts up in every step, so that Adam's bias correction goes wrong in silence.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from megatron.core.dist_checkpointing import ShardedTensor
from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer
from megatron.core.optimizer.optimizer import (
    ChainedOptimizer,
    Float16OptimizerWithFloat16Params,
    FP32Optimizer,
    MegatronOptimizer,
)

from internvl_trainer.engine.flat_shards import shards_of_range
from internvl_trainer.engine.protocol import ShardedStateDict

STEP = "step"
"""Optimizer steps made so far, the one value beside the tensors. Learning rate and the like are the job's own."""


class Owned(NamedTuple):
    """What this process has of one trainable parameter's optimizer state: a flat range, element by element."""

    parameter: torch.nn.Parameter
    first: int
    """Flat position, in the parameter, of the range's first element."""
    tensors: dict[str, torch.Tensor]
    """State by kind, float32: the optimizer's own tensors."""
    alone: bool
    """Whether the other data-parallel replicas own other ranges; else each of them owns the same."""


def sharded_state(optimizer: MegatronOptimizer, model: Mapping[str, Any]) -> ShardedStateDict:
    """The state as sharded tensors over the optimizer's own memory: saved from there, loaded into there. Collective.

    State that no step has made yet is made here, all zeros.

    Args:
        optimizer: any that `build_optimizer` makes.
        model: the model's sharded state, with the parameters themselves as data.

    Raises:
        KeyError: the model's state lacks a trainable parameter.
        ValueError: a parameter's factory gives something else than views of what it is given.
    """
    templates = {id(value.data): value for value in nested_values(dict(model))}
    tensors: dict[str, ShardedTensor] = {}
    for owned in _owned(optimizer):
        if id(owned.parameter) not in templates:
            raise KeyError(f"a trainable parameter of shape {tuple(owned.parameter.shape)} is not in the model's state")
        template = templates[id(owned.parameter)]
        for kind, tensor in owned.tensors.items():
            prefix = f"optimizer.state.{kind}."
            for shard in shards_of_range(template, tensor, owned.first, prefix=prefix, owned_alone=owned.alone):
                tensors[f"{shard.key}/{'.'.join(map(str, shard.global_offset))}"] = shard
    return {STEP: _agreed_step(optimizer), "tensors": tensors}


def load_state(optimizer: MegatronOptimizer, model: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Take state in the form of `sharded_state`, tensors in place of the sharded tensors.

    The common part may be of an earlier trainer, that of megatron's optimizers with replicated state.
    """
    for name, shard in sharded_state(optimizer, model)["tensors"].items():
        shard.data.copy_(state["tensors"][name])
    step = _saved_step(state)
    for part in _parts(optimizer):
        if _counts_in_groups(part.optimizer):
            for group in part.optimizer.param_groups:
                group[STEP] = step
        else:
            for moments in part.optimizer.state.values():
                moments[STEP].fill_(step)


def _owned(optimizer: MegatronOptimizer) -> Iterator[Owned]:
    for part in _parts(optimizer):
        _allocate(part)
        for parameter, master, first in _masters(part):
            moments = part.optimizer.state[master]
            tensors = {kind: moments[kind] for kind in ("exp_avg", "exp_avg_sq")}
            if parameter.dtype is not torch.float32:
                tensors["fp32_param"] = master.detach()
            yield Owned(parameter, first, tensors, isinstance(part, DistributedOptimizer))


def _masters(optimizer: MegatronOptimizer) -> Iterator[tuple[torch.nn.Parameter, torch.Tensor, int]]:
    """Parameters, the float32 weights that Adam updates in their place, and where in the parameter these begin."""
    if isinstance(optimizer, DistributedOptimizer):
        of_model = (*optimizer.model_float16_groups, *optimizer.model_fp32_groups)
        of_adam = (*optimizer.shard_fp32_from_float16_groups, *optimizer.shard_fp32_groups)
        for parameters, shards in zip(of_model, of_adam, strict=True):
            for parameter, shard in zip(parameters, shards, strict=True):
                yield parameter, shard, optimizer._get_model_param_range_map(parameter)["param"].start
    elif isinstance(optimizer, Float16OptimizerWithFloat16Params):
        for parameters, masters in zip(optimizer.float16_groups, optimizer.fp32_from_float16_groups, strict=True):
            yield from ((parameter, master, 0) for parameter, master in zip(parameters, masters, strict=True))
        yield from ((parameter, parameter, 0) for group in optimizer.fp32_from_fp32_groups for parameter in group)
    elif isinstance(optimizer, FP32Optimizer):
        yield from ((parameter, parameter, 0) for parameter in optimizer.get_parameters())
    else:
        raise TypeError(f"{type(optimizer).__name__} keeps its state in a way that this module does not know")


def _parts(optimizer: MegatronOptimizer) -> list[MegatronOptimizer]:
    """megatron chains optimizers for a mixture of experts; without experts there is one."""
    return optimizer.chained_optimizers if isinstance(optimizer, ChainedOptimizer) else [optimizer]


def _allocate(part: MegatronOptimizer) -> None:
    """Zero moments, and the count of steps, for parameters that have none yet."""
    part.init_state_fn(part.optimizer, part.config)
    if not _counts_in_groups(part.optimizer):
        for state in part.optimizer.state.values():
            state.setdefault(STEP, torch.zeros(()))


def _counts_in_groups(adam: torch.optim.Optimizer) -> bool:
    """Transformer Engine's and apex's Adam count steps once per parameter group, torch's once per parameter."""
    return not isinstance(adam, torch.optim.AdamW)


def _agreed_step(optimizer: MegatronOptimizer) -> int:
    """Steps made so far, by all ranks' account: one that owns nothing has not counted. Collective."""
    counts = [0]
    for part in _parts(optimizer):
        holders = (*part.optimizer.param_groups, *part.optimizer.state.values())
        counts += [int(holder[STEP]) for holder in holders if STEP in holder]
    most = torch.tensor(max(counts), device=torch.cuda.current_device())
    torch.distributed.all_reduce(most, op=torch.distributed.ReduceOp.MAX)
    return int(most.item())


def _saved_step(state: Mapping[str, Any]) -> int:
    if STEP in state:
        return int(state[STEP])
    earlier = state.get("optimizer", state)  # megatron's bf16 optimizer has it one level deeper
    count = earlier["state"].get("common_step")
    return int(earlier["param_groups"][0][STEP] if count is None else count)
