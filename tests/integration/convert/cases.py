"""What runs on the ranks of a grid: an imported model in the real engine. Each function gets the rank's place first.

Shapes: S tokens, K positions, V vocabulary.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from internvl_trainer.checkpoint.checkpointer import Checkpointer
from internvl_trainer.checkpoint.state import StepMetrics, TrainState
from internvl_trainer.contract.base import Component
from internvl_trainer.contract.catalog import ModelGeometry
from internvl_trainer.contract.data_position import DataPosition
from internvl_trainer.contract.job import JobConfig
from internvl_trainer.contract.manifest import ManifestRef
from internvl_trainer.convert.mapping import Layout
from internvl_trainer.convert.tables import mappings
from internvl_trainer.data.pack import Pack
from internvl_trainer.engine.batch import to_device
from internvl_trainer.engine.megatron import MegatronEngine
from internvl_trainer.engine.parallel import Place
from internvl_trainer.storage import open_store
from tests.integration.convert.folders import IMAGE_TOKEN


def start_and_save(place: Place, job: JobConfig, scratch: Path) -> ManifestRef:
    """Start a stage from `job.init` and save at once, untrained."""
    engine, checkpointer = _started(place, job, scratch)
    metrics = StepMetrics(step=1, loss=1.0, grad_norm=1.0, learning_rate=1e-3, tokens=1, tiles=1, seconds=1.0)
    return checkpointer.save(engine, TrainState(1, 1, DataPosition(packs=job.optimization.global_batch), (metrics,)))


def logits(place: Place, job: JobConfig, scratch: Path, pack: Pack) -> list[list[float]]:
    """Logits [S, V] of a model from `job.init`."""
    engine, _ = _started(place, job, scratch)
    batch = to_device(pack, IMAGE_TOKEN, torch.device("cpu"), None)
    with torch.no_grad():
        found: list[list[float]] = engine.model.logits(batch, torch.arange(len(pack.tokens_S))).tolist()
    return found


class Told(NamedTuple):
    """What a model from `job.init` says of one pack."""

    loss: float
    logits: list[list[float]]
    gradient_norms: dict[str, float]
    """By native names; only where one rank has whole tensors."""


def loss_and_gradients(place: Place, job: JobConfig, scratch: Path, pack: Pack) -> Told:
    """Loss, logits and gradient norms of a pack without images."""
    engine, _ = _started(place, job, scratch)
    batch = to_device(pack, IMAGE_TOKEN, torch.device("cpu"), None)
    with torch.no_grad():
        answers = engine.model.logits(batch, torch.arange(len(pack.tokens_S))).tolist()
    result = engine.train_step([pack], 0.0, 0)
    norms = {}
    if place.world == 1:
        gradients = {name: weight.main_grad for name, weight in engine.model.named_parameters()}
        norms = _native_norms(job.model, gradients)
    return Told(result.loss, answers, norms)


def text_pack(tokens: list[int], labels: list[int]) -> Pack:
    """One sample without images, every supervised token counting the same; labels are not yet shifted."""
    shifted = np.array([*labels[1:], -100])
    weights = np.where(shifted == -100, 0, 1).astype(np.float32)
    bounds = np.array([0, len(tokens)], np.int32)
    return Pack(0, ("text",), np.array(tokens), shifted, weights, bounds, None, (0,))


def picture_pack(model: ModelGeometry, tiles: int, words: int) -> Pack:
    """One sample of some random tiles between some words."""
    draw = np.random.default_rng(0)
    side = model.vision.image_size
    around = draw.integers(10, model.language.vocab_size, (2, words))
    placeholders = np.full(tiles * model.tokens_per_tile, IMAGE_TOKEN)
    tokens = np.concatenate([around[0], placeholders, around[1]])
    pixels = draw.integers(0, 256, (tiles, side, side, 3), dtype=np.uint8)
    nothing = np.full(len(tokens), -100)
    bounds = np.array([0, len(tokens)], np.int32)
    return Pack(0, ("picture",), tokens, nothing, np.zeros(len(tokens), np.float32), bounds, pixels, (tiles,))


def _started(place: Place, job: JobConfig, scratch: Path) -> tuple[MegatronEngine, Checkpointer]:
    engine = MegatronEngine(job, place, image_token=IMAGE_TOKEN)
    checkpointer = Checkpointer(job, open_store(), scratch)
    checkpointer.initialise(engine)
    return engine, checkpointer


def _native_norms(model: ModelGeometry, gradients: dict[str, Any]) -> dict[str, float]:
    norms = {}
    for mapping in mappings(model, Layout.NATIVE, (Component.LANGUAGE,)):
        key, layer, shape = mapping.tensor
        name = key if layer is None else key.replace(".layers.", f".layers.{layer}.")
        whole = gradients[name][: shape[0]]
        norms |= {name: float(part.norm()) for name, part in zip(mapping.names, mapping.split(whole), strict=True)}
    return norms
