"""What runs on the ranks of a grid to see what training keeps in memory. Place first."""

import gc
import hashlib
from collections.abc import Callable
from typing import NamedTuple

import torch

from internvl_trainer.contract.base import Component
from internvl_trainer.contract.job import JobConfig
from internvl_trainer.engine.batch import to_device
from internvl_trainer.engine.megatron import MegatronEngine
from internvl_trainer.engine.parallel import Place
from internvl_trainer.engine.protocol import StepResult
from internvl_trainer.model.droppath import DropPathPlace
from tests.integration.trainer import cases
from tests.integration.trainer.packs import IMAGE, pack


class Steps(NamedTuple):
    """Some steps, to the last bit."""

    results: list[StepResult]
    gradients: str
    """Digest of the last step's gradients."""


def train_to_the_bit(place: Place, jobs: list[JobConfig], steps: int) -> list[Steps]:
    """Train each job from its own random start."""
    return [_train_to_the_bit(place, job, steps) for job in jobs]


def _train_to_the_bit(place: Place, job: JobConfig, steps: int) -> Steps:
    engine = MegatronEngine(job, place, image_token=IMAGE)
    results = [cases.step(engine, place, job, number) for number in range(steps)]
    digest = hashlib.sha256()
    for _, weight in sorted(engine.model.named_parameters()):
        if weight.requires_grad:
            digest.update(weight.main_grad.numpy().tobytes())
    return Steps(results, digest.hexdigest())


class Kept(NamedTuple):
    """Bytes that one pack's forward pass keeps for its backward pass, weights excluded."""

    visual: int
    """By vision encoder and projector."""
    all: int
    tiles: int
    """Size of the pack's tiles."""


def keep(place: Place, jobs: list[JobConfig]) -> list[Kept]:
    """What a pack with three tiles keeps under each job. For one process."""
    return [_keep(place, job) for job in jobs]


def _keep(place: Place, job: JobConfig) -> Kept:
    engine = MegatronEngine(job, place, image_token=IMAGE)
    batch = to_device(pack(0, job.model), IMAGE, torch.device("cpu"), DropPathPlace(seed=1, step=0, microbatch=0))
    assert batch.tiles_NPPC is not None
    return Kept(
        visual=_saved_bytes(engine, lambda: engine.model.visual_tokens(batch.tiles_NPPC, batch.place)),
        all=_saved_bytes(engine, lambda: engine.model(batch)),
        tiles=batch.tiles_NPPC.nbytes,
    )


def _saved_bytes(engine: MegatronEngine, forward: Callable[[], torch.Tensor]) -> int:
    weights = {weight.untyped_storage().data_ptr() for weight in engine.model.parameters()}
    saved: dict[int, int] = {}

    def save(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        output = forward()
    assert output is not None  # alive until here, so that no saved tensor's address is used twice
    return sum(size for address, size in saved.items() if address not in weights)


class Held(NamedTuple):
    """Bytes of all tensors that training one choice of components leaves behind a step on one rank."""

    beyond_weights: int
    trainable: int
    """Parameters of the trainable components on this rank."""
    with_gradient: set[Component]
    """Components with a gradient buffer."""


def hold(place: Place, jobs: list[JobConfig]) -> list[Held]:
    """One step of each job."""
    # What is made once per process, and not by the engine, is made by a step that does not count.
    _hold(place, jobs[-1])
    return [_hold(place, job) for job in jobs]


def _hold(place: Place, job: JobConfig) -> Held:
    before = _live_bytes()
    engine = MegatronEngine(job, place, image_token=IMAGE)
    cases.step(engine, place, job, 0)
    engine.model.set_input_tensor([None])  # else it has the last pack's hidden states until the next step
    parts = {component: engine.model.part(component) for component in Component}
    weights = {component: list(part.parameters()) for component, part in parts.items() if part is not None}
    return Held(
        beyond_weights=_live_bytes() - before - sum(weight.nbytes for weight in engine.model.parameters()),
        trainable=sum(weight.numel() for part in job.trainable for weight in weights.get(part, ())),
        with_gradient={part for part in weights if any(hasattr(weight, "main_grad") for weight in weights[part])},
    )


def _live_bytes() -> int:
    gc.collect()
    storages = [each.untyped_storage() for each in gc.get_objects() if issubclass(type(each), torch.Tensor)]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())
