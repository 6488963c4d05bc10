"""How much device memory a job needs, per pipeline stage and by what it is for.

An estimate for a pack at its limits, of what training holds at its peak; the allocator's fragmentation and the
libraries' own buffers come on top. Activations are counted as the model's layers keep them (a unit test compares with
what autograd really saves), at two bytes an element for bf16.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

from internvl_trainer.contract.base import Component
from internvl_trainer.contract.catalog import LanguageGeometry, ModelGeometry, VisionGeometry
from internvl_trainer.contract.parameters import rank_parameters, share
from internvl_trainer.contract.pipeline import job_layers
from internvl_trainer.contract.workload import Workload

GIB = 2**30

LOGITS_CHUNK = 256 * 2**20
"""Bytes of float32 logits that the loss computes at a time, on each rank.

At the 151,674 columns of the Qwen2.5 vocabulary on one rank these are 442 tokens: enough rows for the head's products
to run at full speed, while a whole pack's 16,384 would take 9.9 GB, and as much again for their gradient. Tensor
parallelism divides the columns, so a chunk has more tokens then.
"""


class Bytes(NamedTuple):
    """What one element takes: of weights and activations, of a gradient, and of a parameter's optimizer state.

    Gradients are summed in float32. AdamW keeps two moments, and beside bf16 weights a float32 copy of them.
    """

    element: int
    gradient: int
    optimizer: int


BYTES = {"bf16": Bytes(2, 4, 12), "fp32": Bytes(4, 4, 8)}


@dataclass(frozen=True)
class MemoryParts:
    """Bytes on one device, by what holds them."""

    weights: int
    gradients: int
    optimizer: int
    vision_activations: int
    """Of vision encoder and projector, all micro-batches in flight together."""
    language_activations: int
    tiles: int
    working: int
    """The largest of what only exists for a moment: a layer that is computed again, the head's logits and gradient."""

    @property
    def total(self) -> int:
        """All of it."""
        return sum(getattr(self, field.name) for field in fields(self))

    def __str__(self) -> str:
        parts = [(field.name.replace("_", " "), getattr(self, field.name)) for field in fields(self)]
        return ", ".join(f"{name} {size / GIB:.2f}" for name, size in parts if size)


@dataclass(frozen=True)
class StageMemory:
    """The estimate for each device of one pipeline stage."""

    stage: int
    layers: int
    """Language layers of the stage."""
    in_flight: int
    """Micro-batches whose activations are kept at the same time."""
    parts: MemoryParts

    def __str__(self) -> str:
        return (
            f"pipeline stage {self.stage} ({self.layers} language layers, {self.in_flight} packs in flight) needs "
            f"about {self.parts.total / GIB:.2f} GiB on each device: {self.parts}"
        )


@dataclass(frozen=True)
class MemoryProblem:
    """A pipeline stage that does not fit on its devices."""

    needed: StageMemory
    device: int
    """Bytes that a device has."""

    def __str__(self) -> str:
        return (
            f"{self.needed}; a device has {self.device / GIB:.2f} GiB. Raise tensor or pipeline, let recompute keep "
            "less (vision: whole), or lower packTokens or packTiles"
        )


def estimate_memory(job: Workload) -> tuple[StageMemory, ...]:
    """What each pipeline stage of a job needs per device, first stage first."""
    stages = job.layout.pipeline
    micro_batches = job.optimization.global_batch // job.layout.data
    return tuple(
        # 1F1B: a stage starts on as many packs as there are stages from it to the end, before it gets the first back.
        _stage_memory(job, stage, count, min(stages - stage, micro_batches))
        for stage, count in enumerate(job_layers(job))
    )


def memory_problem(stages: Sequence[StageMemory], device: int) -> MemoryProblem | None:
    """The stage that needs most, where that is more than a device's bytes; None where all fit."""
    largest = max(stages, key=lambda stage: stage.parts.total)
    return MemoryProblem(largest, device) if largest.parts.total > device else None


def _stage_memory(job: Workload, stage: int, layers: int, in_flight: int) -> StageMemory:
    first, last = stage == 0, stage == job.layout.pipeline - 1
    size = BYTES[job.optimization.precision]
    held, trained = _parameters(job, layers, first=first, last=last)
    vision = _vision_activations(job) if first else Activations(0, 0)
    language = _language_activations(job, layers)
    head = _head_working(job) if last else 0
    owners = job.layout.data if job.partition.optimizer == "sharded" else 1
    parts = MemoryParts(
        weights=held * size.element,
        gradients=trained * size.gradient,
        optimizer=share(trained * size.optimizer, owners),
        vision_activations=vision.kept * in_flight,
        language_activations=language.kept * in_flight,
        tiles=_tile_bytes(job) * in_flight if first else 0,
        working=max(vision.working, language.working, head),
    )
    return StageMemory(stage, layers, in_flight, parts)


def _parameters(job: Workload, layers: int, *, first: bool, last: bool) -> tuple[int, int]:
    """Parameters of a rank, and how many of them are trained."""
    rank = rank_parameters(job.model, job.layout.tensor, job.partition)
    held = {
        Component.VISION: rank.vision if first else 0,
        Component.PROJECTOR: rank.projector if first else 0,
        Component.LANGUAGE: layers * rank.layer + (rank.embedding if first else 0) + (rank.head if last else 0),
    }
    return sum(held.values()), sum(count for component, count in held.items() if component in job.trainable)


class Activations(NamedTuple):
    """Bytes of one micro-batch: kept until its backward pass, and needed for a moment in either pass."""

    kept: int
    working: int


def _vision_activations(job: Workload) -> Activations:
    """Of vision encoder and projector on one rank."""
    vision, element = job.model.vision, BYTES[job.optimization.precision].element
    in_tiles = job.partition.vision == "tiles"
    tiles = share(job.data.pack_tiles, job.layout.tensor) if in_tiles else job.data.pack_tiles
    tokens = tiles * (vision.patches_per_side**2 + 1)
    tensor = 1 if in_tiles else job.layout.tensor
    projector = _projector_elements(job.model, job.layout.tensor) * job.data.pack_tiles * job.model.tokens_per_tile
    if Component.VISION not in job.trainable:
        passing = tokens * (2 * vision.hidden + 2 * share(vision.ffn, tensor))
        kept = projector if Component.PROJECTOR in job.trainable else 0
        return Activations(kept * element, passing * element)
    layer = tokens * vision_layer_elements(vision, tensor)
    inputs = tokens * vision.hidden * vision.layers
    kept, working = {
        "none": (layer * vision.layers + projector, 0),
        "layers": (inputs + projector, layer),
        "whole": (0, inputs + projector + layer),
    }[job.recompute.vision]
    return Activations(kept * element, working * element)


def vision_layer_elements(vision: VisionGeometry, tensor: int = 1) -> int:
    """Elements per position that one block keeps for its backward pass, on one of `tensor` ranks.

    Whole on each rank: the inputs and outputs of both norms, and both branches before layer scale. Shared: q, k and v,
    the attention's output, the MLP before and after its activation. A norm of q and k keeps each in float32 (two
    elements), normalised and weighted.
    """
    width = share(vision.heads, tensor) * (vision.hidden // vision.heads)
    attention = (4 + (8 if vision.qk_norm else 0)) * width
    return 6 * vision.hidden + attention + 2 * share(vision.ffn, tensor)


def _projector_elements(model: ModelGeometry, tensor: int) -> int:
    """Per visual token: the norm's input and output, the hidden layer before and after its activation, the output."""
    return 2 * model.projector_input + 2 * share(model.language.hidden, tensor) + model.language.hidden


def _language_activations(job: Workload, layers: int) -> Activations:
    """Of some language layers on one rank, and RoPE's table of sines and cosines that they share, in float32."""
    if not layers:
        return Activations(0, 0)
    language, tensor = job.model.language, job.layout.tensor
    tokens, element = job.data.pack_tokens, BYTES[job.optimization.precision].element
    sequence = job.partition.sequence
    table = tokens * language.head_dim * 4
    layer = tokens * language_layer_elements(language, tensor, sequence=sequence)
    if job.recompute.language == "none":
        return Activations(table + layer * layers * element, 0)
    inputs = tokens * share(language.hidden, tensor if sequence else 1) * layers
    return Activations(table + inputs * element, layer * element)


def language_layer_elements(language: LanguageGeometry, tensor: int = 1, *, sequence: bool = False) -> int:
    """Elements per token that one decoder layer keeps for its backward pass, on one of `tensor` ranks.

    Shared under sequence parallelism alone: the inputs and outputs of both norms. Shared always: q and k after RoPE
    and v, the attention's output, gate and up projection, the product of the activated gate with the up projection.
    """
    q = share(language.heads, tensor) * language.head_dim
    kv = share(language.kv_heads, tensor) * language.head_dim
    norms = 4 * share(language.hidden, tensor if sequence else 1)
    return norms + 2 * q + 2 * kv + 3 * share(language.ffn, tensor)


def _head_working(job: Workload) -> int:
    """A chunk's logits in the weights' dtype, in float32 and as a gradient, and the gradient of the head's weight."""
    element = BYTES[job.optimization.precision].element
    columns = share(job.model.language.vocab_size, job.layout.tensor)
    chunk = min(LOGITS_CHUNK, 4 * columns * job.data.pack_tokens)
    chunk_bytes = chunk + 2 * (chunk * element // 4)
    weight = columns * job.model.language.hidden * (4 + element)
    return chunk_bytes + (weight if Component.LANGUAGE in job.trainable else 0)


def _tile_bytes(job: Workload) -> int:
    """Pixels of one pack: as they came, and normalised too, where the patch embedding keeps them for its gradient."""
    vision, element = job.model.vision, BYTES[job.optimization.precision].element
    normalised = Component.VISION in job.trainable and job.recompute.vision != "whole"
    return job.data.pack_tiles * vision.image_size**2 * 3 * (1 + (element if normalised else 0))
