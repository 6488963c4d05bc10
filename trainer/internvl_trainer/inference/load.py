"""From a checkpoint's manifest to a model that answers."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from internvl_trainer.checkpoint import verify
from internvl_trainer.checkpoint.load import load_model
from internvl_trainer.contract.base import Component
from internvl_trainer.contract.manifest import ManifestRef, ParallelLayout
from internvl_trainer.data.tokenizer import Tokenizer
from internvl_trainer.engine import parallel
from internvl_trainer.inference.generate import Answerer
from internvl_trainer.model.config import model_configs
from internvl_trainer.model.internvl import InternVLModel
from internvl_trainer.storage import ObjectStore


@contextmanager
def opened(
    ref: ManifestRef, *, tokenizer: str, store: ObjectStore, scratch: Path, max_tiles: int = 12, thumbnail: bool = True
) -> Iterator[Answerer]:
    """A model out of a checkpoint saved at any layout, in float32, in this process alone.

    Args:
        ref: the checkpoint's manifest; digests are verified.
        tokenizer: URI of the tokenizer folder that the model was trained with.
        scratch: a folder with room for the checkpoint's model files.
        max_tiles, thumbnail: how images are cut; as in training.

    Raises:
        CheckpointError: the checkpoint does not exist, is damaged or does not fit its own geometry.
        StoreError: the store did not answer.
    """
    geometry = verify.open_source(store, Component.LANGUAGE, ref).manifest.model
    with parallel.alone():
        model = InternVLModel(geometry, model_configs(geometry, ParallelLayout(), dtype=torch.float32))
        load_model(ref, model, store, scratch, geometry=geometry)
        family = geometry.language.family
        yield Answerer(model, Tokenizer.load(tokenizer, store, family=family), max_tiles=max_tiles, thumbnail=thumbnail)
