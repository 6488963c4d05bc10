"""What runs on the ranks of a grid to compare vision encoders, their gradients and their checkpoints. Place first.

Shapes: S positions, N tiles, H hidden, P side in px.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from megatron.core.dist_checkpointing import ShardedTensor
from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.mapping import ShardedTensorFactory, apply_factories, is_main_replica

from internvl_trainer.contract.catalog import MODELS, VisionGeometry
from internvl_trainer.contract.job import JobConfig, PartitionConfig, RecomputeConfig
from internvl_trainer.contract.manifest import ParallelLayout
from internvl_trainer.contract.tensors import WholeTensor
from internvl_trainer.engine.megatron import MegatronEngine
from internvl_trainer.engine.parallel import Place
from internvl_trainer.engine.protocol import StepResult
from internvl_trainer.model.config import model_configs
from internvl_trainer.model.droppath import DropPathPlace
from internvl_trainer.model.heads import HEAD_AXIS, PaddedSelfAttention
from internvl_trainer.model.initialise import STACKED, fill
from internvl_trainer.model.vision import InternViT
from tests.integration.trainer import cases
from tests.integration.trainer.packs import IMAGE

DROP_PATH = 0.5
HERE = DropPathPlace(seed=3, step=5, microbatch=7)

type Name = tuple[str, int | None]
"""A tensor's checkpoint key, and its layer where it is of a stack of layers."""


class Encoder(NamedTuple):
    """A vision encoder and what to run it on."""

    geometry: VisionGeometry
    weights: dict[Name, np.ndarray]
    pixels_N3PP: np.ndarray
    upstream_SNH: np.ndarray
    """Gradient of the loss with respect to the output."""
    partition: PartitionConfig
    drop_path: bool = False
    recompute: RecomputeConfig = RecomputeConfig(vision="none")


class Piece(NamedTuple):
    """Part of a whole tensor, where it begins, and the whole's shape."""

    name: Name
    offset: tuple[int, ...]
    values: np.ndarray
    whole: tuple[int, ...]


class Ran(NamedTuple):
    """What one rank computed."""

    output_SNH: np.ndarray
    gradients: list[Piece]
    """Of the parts that this rank is the one to save."""
    padding: float | None
    """Largest gradient of a weight that only pads the number of heads; None where this rank has no such weight."""


def run(place: Place, tensor: int, encoders: dict[str, Encoder]) -> dict[str, Ran]:
    """Output and gradients of each encoder, cut for `tensor` ranks."""
    return {name: _run_one(tensor, encoder) for name, encoder in encoders.items()}


def _run_one(tensor: int, encoder: Encoder) -> Ran:
    shell = MODELS["tiny-8b-like"]
    language = shell.language.model_copy(update={"heads": 8, "kv_heads": 8})
    model = InternViT(
        model_configs(
            shell.model_copy(update={"vision": encoder.geometry, "language": language}),
            ParallelLayout(tensor=tensor),
            partition=encoder.partition,
            recompute=encoder.recompute,
        ).vision,
        encoder.geometry,
        DROP_PATH if encoder.drop_path else 0.0,
    )

    def weights(whole: WholeTensor) -> torch.Tensor:
        values = torch.from_numpy(encoder.weights[whole.key, whole.layer])
        assert values.shape == whole.shape, f"{whole.key} is {whole.shape} in checkpoints"
        return values

    fill(model, weights)
    x_SNH = model(torch.from_numpy(encoder.pixels_N3PP), HERE if encoder.drop_path else None)
    x_SNH.backward(torch.from_numpy(encoder.upstream_SNH))
    for parameter in model.parameters():
        parameter.main_grad = parameter.grad
    model.sum_gradients()
    return Ran(x_SNH.detach().numpy(), list(_gradients(model)), _padding(model, lambda parameter: parameter.grad))


def _gradients(model: InternViT) -> Iterator[Piece]:
    """Gradients of this rank's weights, cut and named as a checkpoint would cut and name the weights."""
    state = model.sharded_state_dict()
    for value in nested_values(state):
        if isinstance(value, ShardedTensor | ShardedTensorFactory):
            value.data = value.data.grad
    apply_factories(state)
    for shard in nested_values(state):
        if isinstance(shard, ShardedTensor) and is_main_replica(shard.replica_id):
            stacked = int(STACKED in shard.key)
            layer = shard.global_offset[0] if stacked else None
            offset, whole = tuple(shard.global_offset[stacked:]), tuple(shard.global_shape[stacked:])
            values = shard.data.reshape(shard.local_shape[stacked - shard.prepend_axis_num :])
            yield Piece((shard.key, layer), offset, values.numpy(), whole)


def _padding(model: torch.nn.Module, of: Callable[[torch.nn.Parameter], torch.Tensor]) -> float | None:
    """Largest of what `of` gives for this rank's weights, in the parts that only pad the number of heads."""
    return max((float(part.abs().max()) for part in _padded_parts(model, of)), default=None)


def _padded_parts(model: torch.nn.Module, of: Callable[[torch.nn.Parameter], torch.Tensor]) -> Iterator[torch.Tensor]:
    for attention in model.modules():
        if not isinstance(attention, PaddedSelfAttention):
            continue
        parameters = dict(attention.named_parameters())
        for name, axis in HEAD_AXIS.items():
            if name in parameters:
                values = of(parameters[name])
                true = values.size(axis) // attention.num_attention_heads_per_partition * attention.true_heads
                if true < values.size(axis):
                    yield values.narrow(axis, true, values.size(axis) - true)


class Trained(NamedTuple):
    """What a few steps did, as one rank saw it."""

    steps: list[StepResult]
    padding: float | None
    """Largest weight, after training, that only pads the number of heads; None where this rank has none."""


def train(place: Place, jobs: list[JobConfig], steps: int) -> list[Trained]:
    """Train each job from its random start, on packs by formula."""
    results = []
    for job in jobs:
        engine = MegatronEngine(job, place, image_token=IMAGE)
        done = [cases.step(engine, place, job, number) for number in range(steps)]
        results.append(Trained(done, _padding(engine.model, torch.nn.Parameter.detach)))
    return results


def train_and_save(place: Place, jobs: list[JobConfig], folder: Path) -> list[list[StepResult]]:
    """Some steps of each job, a checkpoint, and the results of some steps more."""
    return [
        cases.train_and_save(place, job, folder / str(number), before=2, after=2) for number, job in enumerate(jobs)
    ]


def resume_and_train(place: Place, jobs: list[JobConfig], folder: Path) -> list[list[StepResult]]:
    """Each job goes on from its checkpoint, with weights that were spoilt before they were loaded."""
    return [cases.resume_and_train(place, job, folder / str(number), after=2) for number, job in enumerate(jobs)]
