"""What the memory tests run on the ranks of a grid. Each function gets the rank's place first.

Shapes: S tokens or positions, N tiles, H hidden.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from megatron.core.packed_seq_params import PackedSeqParams

from internvl_trainer.contract.job import JobConfig
from internvl_trainer.engine.megatron import MegatronEngine
from internvl_trainer.engine.parallel import Place
from internvl_trainer.model.errors import LayoutError
from tests.integration.trainer.packs import IMAGE, pack


class Held(NamedTuple):
    """Bytes that a rank really holds after a step."""

    weights: int
    gradients: int
    optimizer: int


class Kept(NamedTuple):
    """Elements per position that one layer really keeps for its backward pass."""

    vision: float
    language: float


def held(place: Place, job: JobConfig) -> Held:
    """Train one step and weigh what stays."""
    engine = MegatronEngine(job, place, image_token=IMAGE)
    indices = place.pack_indices(0, job.optimization.global_batch)
    engine.train_step([pack(i, job.model, with_tiles=place.needs_tiles) for i in indices], 1e-3, 0)
    parameters = list(engine.model.parameters())
    states = [state for group in engine._optimizer.chained_optimizers for state in group.optimizer.state.values()]
    masters = [
        tensor
        for part in engine._optimizer.chained_optimizers
        for group in getattr(part, "fp32_from_float16_groups", [])
        for tensor in group
    ]
    moments = [value for state in states for value in state.values() if value.numel() > 1]
    return Held(
        weights=sum(parameter.nbytes for parameter in parameters),
        gradients=sum(parameter.main_grad.nbytes for parameter in parameters if parameter.requires_grad),
        optimizer=sum(tensor.nbytes for tensor in [*moments, *masters]),
    )


def language_layers(place: Place, job: JobConfig) -> int:
    """How many language layers this rank's stage has."""
    return len(MegatronEngine(job, place, image_token=IMAGE).model.language_model.decoder.layers)


def refusal(place: Place, job: JobConfig) -> str | None:
    """Why the engine does not take this job; None where it does."""
    try:
        MegatronEngine(job, place, image_token=IMAGE)
    except LayoutError as error:
        return str(error)
    return None


def kept(place: Place, job: JobConfig) -> Kept:
    """Run one layer of each kind and weigh what autograd saves."""
    model = MegatronEngine(job, place, image_token=IMAGE).model
    vision, language = job.model.vision, job.model.language
    positions, tiles, tokens = vision.patches_per_side**2 + 1, 4, 128
    x_SNH = torch.randn(positions, tiles, vision.hidden, requires_grad=True)
    block = model.vision_model.encoder.layers[0]
    x_S1H = torch.randn(tokens, 1, language.hidden, requires_grad=True)
    bounds = torch.tensor([0, tokens], dtype=torch.int32)
    segments = PackedSeqParams(
        "thd", cu_seqlens_q=bounds, cu_seqlens_kv=bounds, max_seqlen_q=tokens, max_seqlen_kv=tokens
    )
    segments = model.angles.of(segments, tokens)
    table = (segments.cos_S1R.nbytes + segments.sin_S1R.nbytes) / 4 / tokens  # all layers of a pack have it in common
    layer = model.language_model.decoder.layers[0]
    return Kept(
        vision=_saved(model, lambda: block(x_SNH)) / 4 / (positions * tiles),
        language=_saved(model, lambda: layer(x_S1H, attention_mask=None, packed_seq_params=segments)) / 4 / tokens
        - table,
    )


def _saved(model: torch.nn.Module, run: Callable[[], object]) -> int:
    """Bytes of the storages that a forward pass saves, each counted once, parameters left out."""
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    storages: dict[int, torch.UntypedStorage] = {}

    def save(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            storages[storage.data_ptr()] = storage  # held, so that no address is used twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        output = run()
    assert output is not None
    return sum(storage.nbytes() for storage in storages.values())
