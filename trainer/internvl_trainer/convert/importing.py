"""Which weights of which Hugging Face folders make a checkpoint, and where its manifest says that they came from.

Planning reads configurations and headers only, and finds what is wrong with them before any tensor is read.
`checkpoint.weights.commit_weights` carries a plan out.
"""

import hashlib
import json
from collections.abc import Collection, Mapping
from functools import partial
from math import prod
from typing import NamedTuple

import torch

from internvl_trainer.checkpoint.weights import Provenance, Weight
from internvl_trainer.contract import catalog, tokens
from internvl_trainer.contract.base import Component, RunIdentity
from internvl_trainer.contract.catalog import ModelGeometry, VisionGeometry
from internvl_trainer.contract.manifest import DrawnWeights, ImportedWeights
from internvl_trainer.contract.tensors import WholeTensor
from internvl_trainer.convert.errors import UnsupportedModelError
from internvl_trainer.convert.folder import HuggingFaceFolder
from internvl_trainer.convert.mapping import Layout
from internvl_trainer.convert.safetensors_file import DTYPES
from internvl_trainer.convert.sources import Source, folder_source
from internvl_trainer.convert.tables import mappings
from internvl_trainer.model.positions import resize_positions
from internvl_trainer.model.random_start import draw

NAMESPACE = "huggingface"
"""What stands in a manifest where trained ones have a Kubernetes namespace."""


class ImportPlan(NamedTuple):
    """What an import will write."""

    weights: list[Weight]
    provenance: Provenance

    @property
    def parameters(self) -> int:
        """Elements of all tensors together."""
        return sum(prod(weight.tensor.shape) for weight in self.weights)

    @property
    def notes(self) -> tuple[str, ...]:
        """What people should know besides."""
        model = self.provenance.model
        if model.name in catalog.MODELS:
            return ()
        return (f"{model.name} is no model of the catalogue; a job that uses it must give its geometry",)


def whole_folder(
    folder: HuggingFaceFolder,
    *,
    components: Collection[Component] = (),
    model: ModelGeometry | None = None,
    dtype: torch.dtype | None = None,
) -> ImportPlan:
    """Import one folder: a whole InternVL model or some components of it, or a bare vision encoder.

    Args:
        folder: whose weights.
        components: which of its components; none means all that it has.
        model: what its geometry must be. A bare vision encoder is imported as the one of this model or, without it,
            of the first model of the catalogue that has such a one.
        dtype: of the checkpoint; None keeps each tensor's own.

    Raises:
        UnsupportedModelError: the folder holds another model, a language model alone, or lacks a component.
        MissingTensorError: it lacks tensors of its model, or has others.
    """
    there = folder.description.components
    if there == (Component.LANGUAGE,):
        raise UnsupportedModelError(
            f"{folder.uri} holds a bare language model; combine it with a vision encoder: "
            "internvl import --vision FOLDER --language FOLDER DESTINATION"
        )
    chosen = tuple(component for component in Component if component in (components or there))
    found = model or _geometry(folder)
    source = folder_source(folder, found, chosen, fresh=_no_fresh_rows, resize=resize_positions)
    return _plan(found, dict.fromkeys(chosen, source), dict.fromkeys(chosen, _from(folder)), dtype)


def start_of_training(
    vision: HuggingFaceFolder,
    language: HuggingFaceFolder,
    *,
    seed: int,
    model: ModelGeometry | None = None,
    vocab_size: int | None = None,
    dtype: torch.dtype | None = None,
) -> ImportPlan:
    """What a first stage starts from: a vision encoder, a language model, and a projector drawn at random.

    Args:
        vision: a bare InternViT, or a whole model of which that part is taken.
        language: a bare Qwen2.5 or InternLM2.5, or likewise.
        seed: of the projector and of the rows of new tokens.
        model: what the geometry must be; by default that of a released model with these parts, else one of its own.
        vocab_size: rows of embedding and head where `model` does not say; the released models' by default.
        dtype: of the checkpoint; None keeps each tensor's own, and gives the projector that of the language model.

    Raises:
        UnsupportedModelError: a folder does not hold the part that it was named for, or not of the model's geometry.
        MissingTensorError: a folder lacks tensors of its model, or has others.
    """
    found = model or _combined(vision, language, vocab_size)
    fresh = partial(draw, found, seed)
    first = next(iter(language.tensors.values()))
    drawn_as = dtype or DTYPES.get(first.dtype, torch.float32)
    sources: dict[Component, Source] = {
        Component.VISION: folder_source(vision, found, (Component.VISION,), fresh=fresh, resize=resize_positions),
        Component.PROJECTOR: lambda tensor: fresh(tensor).to(drawn_as),
        Component.LANGUAGE: folder_source(language, found, (Component.LANGUAGE,), fresh=fresh, resize=resize_positions),
    }
    imported: dict[Component, ImportedWeights | DrawnWeights] = {
        Component.VISION: _from(vision),
        Component.PROJECTOR: DrawnWeights(seed=seed),
        Component.LANGUAGE: _from(language),
    }
    return _plan(found, sources, imported, dtype)


def _plan(
    model: ModelGeometry,
    sources: Mapping[Component, Source],
    imported: Mapping[Component, ImportedWeights | DrawnWeights],
    dtype: torch.dtype | None,
) -> ImportPlan:
    weights = [
        Weight(mapping.tensor, partial(_load, source, mapping.tensor, dtype))
        for component, source in sources.items()
        for mapping in mappings(model, Layout.NATIVE, (component,))
    ]
    # Where a folder lies does not count: the same weights from another bucket are the same.
    origin = {component: each.model_dump(exclude={"uri"}) for component, each in imported.items()}
    digest = hashlib.sha256(json.dumps([origin, model.model_dump()], sort_keys=True).encode()).hexdigest()
    run = RunIdentity(uid=f"import-{digest[:32]}", namespace=NAMESPACE, name=model.name)
    return ImportPlan(weights, Provenance(run, digest, model, dict(imported)))


def _load(source: Source, tensor: WholeTensor, dtype: torch.dtype | None) -> torch.Tensor:
    values = source(tensor)
    return values if dtype is None else values.to(dtype)


def _geometry(folder: HuggingFaceFolder) -> ModelGeometry:
    """Of a whole model, or of the first model of the catalogue with a bare encoder's geometry."""
    found = folder.description
    if found.vision is None or found.language is not None:
        return found.model(folder.name)
    wanted = _computed(found.vision)
    for known in catalog.MODELS.values():
        if _computed(known.vision) == wanted:
            return known
    raise UnsupportedModelError(
        f"{folder.uri} holds a vision encoder that no model of the catalogue has: {found.vision!r}; "
        "combine it with a language model, and take it from that checkpoint"
    )


def _combined(vision: HuggingFaceFolder, language: HuggingFaceFolder, vocab_size: int | None) -> ModelGeometry:
    encoder, decoder = vision.description.vision, language.description.language
    if encoder is None or decoder is None:
        wrong, part = (vision, "vision encoder") if encoder is None else (language, "language model")
        raise UnsupportedModelError(f"{wrong.uri} holds no {part}; give --vision and --language the right folders")
    if vocab_size is None:
        vocab_size = tokens.of(decoder.family).vocab_size
    decoder = decoder.model_copy(update={"vocab_size": vocab_size})
    found = ModelGeometry(name=f"{vision.name}+{language.name}", vision=encoder, language=decoder)
    known = (entry for entry in catalog.MODELS.values() if entry.model_copy(update={"name": found.name}) == found)
    return next(known, found)


def _computed(vision: VisionGeometry) -> VisionGeometry:
    """The geometry without what only counts where weights are drawn."""
    return vision.model_copy(update={"layer_scale_init": 0.0})


def _no_fresh_rows(tensor: WholeTensor) -> torch.Tensor:
    raise AssertionError(f"a whole model has its own vocabulary, but {tensor.key} lacks rows")


def _from(folder: HuggingFaceFolder) -> ImportedWeights:
    listing = [folder.config, {name: [*stored] for name, stored in folder.tensors.items()}]
    digest = hashlib.sha256(json.dumps(listing, sort_keys=True).encode()).hexdigest()
    return ImportedWeights(uri=folder.uri, sha256=digest)
