"""What runs on the ranks of a grid to compare our modules with the reference. Place first.

Shapes: S positions, N tiles, H hidden, T visual tokens, K supervised tokens.
"""

from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import torch

from internvl_trainer.contract.catalog import ModelGeometry, VisionGeometry
from internvl_trainer.contract.job import JobConfig
from internvl_trainer.contract.manifest import ParallelLayout
from internvl_trainer.data.pack import Pack
from internvl_trainer.engine.batch import to_device
from internvl_trainer.engine.megatron import MegatronEngine
from internvl_trainer.engine.parallel import Place
from internvl_trainer.model.batch import MicroBatch
from internvl_trainer.model.config import model_configs
from internvl_trainer.model.initialise import fill
from internvl_trainer.model.vision import InternViT
from tests.integration.trainer import golden


class Forward(NamedTuple):
    """What the whole model gives for the reference's two samples, packed."""

    visual_TH: list[list[float]]
    losses_K: list[float]
    logits: list[list[float]]
    packed: dict[str, float]
    gradient_norms: dict[str, float]
    grad_norm: float


def run_vision(
    place: Place, geometry: VisionGeometry, tensor: int, *, tiles: int = 2, side: int | None = None
) -> list[list[list[float]]]:
    """Output of a vision encoder with formula weights on formula tiles, of its own size by default, [N, S, H]."""
    shell = _shell(geometry)
    model = InternViT(model_configs(shell, ParallelLayout(tensor=tensor)).vision, geometry)
    source = golden.vision_source(geometry)
    with torch.no_grad():
        fill(model, source)
        x_SNH = model(golden.pixels(tiles, side or geometry.image_size))
    return x_SNH.transpose(0, 1).tolist()


def run_model(place: Place, job: JobConfig, case: dict[str, Any]) -> Forward:
    """Forward, losses for the three weightings and gradients, on one pipeline stage."""
    token = case["img_context_token_id"]
    engine = MegatronEngine(job, place, image_token=token)
    fill(engine.model, golden.model_source(job.model))
    pixels = golden.pixels(3, job.model.vision.image_size)[:2]
    with mock.patch("internvl_trainer.model.internvl.normalise_tiles", return_value=pixels):
        batch = _batch(case, "square", job.model, token)
        with torch.no_grad():
            visual = engine.model.visual_tokens(batch.tiles_NPPC).tolist()
            losses = engine.model(batch).losses_K.tolist()
            first, second = (len(case[sample]["input_ids"]) for sample in ("sampleA", "sampleB"))
            positions = torch.tensor([first - 1, 13, first + second - 1])
            logits = engine.model.logits(batch, positions).tolist()
        packed = {}
        for weighting in ("token", "sample", "square"):
            fill(engine.model, golden.model_source(job.model))
            packed[weighting] = engine.train_step([_pack(case, weighting, job.model)], 0.0, 0)
    ours = {name: weight.main_grad for name, weight in engine.model.named_parameters()}
    norms = {}
    if place.world == 1:
        native = golden.native_gradients(job.model, ours)
        norms = {name: float(gradient.norm()) for name, gradient in native.items()}
    return Forward(
        visual, losses, logits, {name: each.loss for name, each in packed.items()}, norms, packed["square"].grad_norm
    )


def _shell(vision: VisionGeometry) -> ModelGeometry:
    """A whole geometry around a vision encoder, for its configuration."""
    case = golden.load("tiny_internvl_forward.json")["cases"][0]
    whole = golden.model_geometry(case["vision_config"], case["llm_config"])
    return whole.model_copy(update={"vision": vision})


def _batch(case: dict[str, Any], weighting: str, geometry: ModelGeometry, token: int) -> MicroBatch:
    return to_device(_pack(case, weighting, geometry), token, torch.device("cpu"), None)


def _pack(case: dict[str, Any], weighting: str, geometry: ModelGeometry) -> Pack:
    """Sample A, which has two tiles, then sample B, which has text alone."""
    tokens, labels, weights = [], [], []
    exponent = {"token": 0.0, "sample": -1.0, "square": -0.5}[weighting]
    for sample in (case["sampleA"], case["sampleB"]):
        shifted = [*sample["labels"][1:], -100]
        supervised = sum(label != -100 for label in shifted)
        tokens += sample["input_ids"]
        labels += shifted
        weights += [0.0 if label == -100 else supervised**exponent for label in shifted]
    side = geometry.vision.image_size
    bounds = [0, len(case["sampleA"]["input_ids"]), len(tokens)]
    tiles = np.zeros((2, side, side, 3), np.uint8)
    return Pack(
        0, ("A", "B"), np.array(tokens), np.array(labels), np.array(weights, np.float32), np.array(bounds, np.int32),
        tiles, (2, 0),
    )  # fmt: skip
