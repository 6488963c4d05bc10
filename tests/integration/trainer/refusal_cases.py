"""Steps that are not to be taken: faults planted on some ranks, and what each rank then says. Place first."""

from collections.abc import Callable
from typing import NamedTuple

import torch

from internvl_trainer.contract.job import JobConfig
from internvl_trainer.engine.errors import RefusedStepError
from internvl_trainer.engine.megatron import MegatronEngine
from internvl_trainer.engine.parallel import Place
from internvl_trainer.model.internvl import InternVLModel
from tests.integration.trainer.packs import IMAGE, pack

HUGE = 3e38


class Refusal(NamedTuple):
    """What a rank said of a step, and whether it left every weight as it was."""

    error: str
    words: str
    kept: bool


def refuse(place: Place, job: JobConfig, faults: list[str], limit: float | None = None) -> list[Refusal]:
    """One first step for each fault, of a new engine that has it."""
    return [_refuse(place, job, fault, limit) for fault in faults]


def _refuse(place: Place, job: JobConfig, fault: str, limit: float | None) -> Refusal:
    engine = MegatronEngine(job, place, image_token=IMAGE)
    FAULTS[fault](engine.model, place)
    before = {name: weight.detach().clone() for name, weight in engine.model.named_parameters()}
    indices = place.pack_indices(0, job.optimization.global_batch)
    packs = [pack(index, job.model, with_tiles=place.needs_tiles) for index in indices]
    try:
        engine.train_step(packs, 1e-3, 0, loss_limit=limit)
    except RefusedStepError as error:
        weights = engine.model.named_parameters()
        kept = all(torch.equal(before[name].nan_to_num(), weight.nan_to_num()) for name, weight in weights)
        return Refusal(type(error).__name__, str(error), kept)
    return Refusal("nothing", "", False)


def _nothing(model: InternVLModel, place: Place) -> None:
    """No fault."""


@torch.no_grad()
def _nan_in_the_head(model: InternVLModel, place: Place) -> None:
    if place.reports:
        model.language_model.output_layer.weight[0, 0] = float("nan")


@torch.no_grad()
def _overflow_in_the_last_layer(model: InternVLModel, place: Place) -> None:
    """On the last data-parallel rank, and on one of the ranks that share the layer."""
    if place.last_stage and place.data_rank == place.data_size - 1 and place.tensor_rank == 0:
        model.language_model.decoder.layers[-1].mlp.linear_fc2.weight.fill_(HUGE)


@torch.no_grad()
def _overflow_in_the_patch_embedding(model: InternVLModel, place: Place) -> None:
    """Outside any layer; without images nothing comes of it but a gradient of zero times infinity."""
    if place.first_stage:
        model.vision_model.patch_weight.fill_(HUGE)


@torch.no_grad()
def _overflow_in_the_head(model: InternVLModel, place: Place) -> None:
    if place.last_stage:
        model.language_model.output_layer.weight.fill_(HUGE)


def _gradient_of_the_projector(model: InternVLModel, place: Place) -> None:
    """As a kernel's backward pass would give it: the forward pass is sound."""
    if place.first_stage and place.data_rank == 0:
        model.projector.linear_in.weight.register_hook(lambda gradient: gradient * float("nan"))


FAULTS: dict[str, Callable[[InternVLModel, Place], None]] = {
    "nothing": _nothing,
    "nan in the head": _nan_in_the_head,
    "overflow in the last layer": _overflow_in_the_last_layer,
    "overflow in the patch embedding": _overflow_in_the_patch_embedding,
    "overflow in the head": _overflow_in_the_head,
    "gradient of the projector": _gradient_of_the_projector,
}
