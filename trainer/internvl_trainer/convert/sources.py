"""Where the tensors of a start checkpoint come from: whole models, and bare parts made to fit.

A source gives any tensor of ours when it is asked for, in the dtype that it is stored in. Embedding and head have the
model's vocabulary, without rows that pad it.

Shapes: V rows of a vocabulary, H hidden.
"""

from collections.abc import Callable, Collection

import torch

from internvl_trainer.contract import tokens
from internvl_trainer.contract.base import Component
from internvl_trainer.contract.catalog import LanguageGeometry, ModelGeometry, VisionGeometry
from internvl_trainer.contract.tensors import WholeTensor, prefix_of
from internvl_trainer.convert.errors import UnsupportedModelError
from internvl_trainer.convert.folder import HuggingFaceFolder
from internvl_trainer.convert.mapping import Mapping
from internvl_trainer.convert.tables import table

type Source = Callable[[WholeTensor], torch.Tensor]

type Resize = Callable[[torch.Tensor, int, int], torch.Tensor]
"""Positions [1 + A*A, H], A, B -> [1 + B*B, H]: learned positions for another grid of patches."""

POSITION = prefix_of(Component.VISION) + "position"
EMBEDDING = prefix_of(Component.LANGUAGE) + "embedding.word_embeddings.weight"
HEAD = prefix_of(Component.LANGUAGE) + "output_layer.weight"


def folder_source(
    folder: HuggingFaceFolder,
    model: ModelGeometry,
    components: Collection[Component],
    *,
    fresh: Source,
    resize: Resize,
) -> Source:
    """Tensors of these components of `model` from a folder that holds them, with or without others.

    A bare language model of another vocabulary is cut or grown, and gets a head if it has none of its own. A vision
    encoder that was stored for tiles of another size gets its positions resized.

    Args:
        folder: a whole model, or a bare part.
        model: what the tensors are for.
        components: which parts of it are going to be asked for.
        fresh: random values for rows of new tokens, by the tensor that has them.
        resize: positions for another grid.

    Raises:
        UnsupportedModelError: the folder does not hold these components, or not of this geometry.
        MissingTensorError: it lacks tensors that its configuration says, or has others.
        TensorShapeError: a tensor has another shape than its configuration says.
    """
    stored = _stored(folder, model, components)
    held = folder.description.components
    bare = len(held) == 1
    by_tensor: dict[tuple[str, int | None], Mapping] = {}
    for component in held:
        for mapping in table(stored, component).mappings(folder.description.layout, bare=bare):
            by_tensor[mapping.tensor.key, mapping.tensor.layer] = mapping
    if folder.description.ties_embeddings and by_tensor[HEAD, None].names[0] not in folder.tensors:
        # The head is read from where the embedding is.
        by_tensor[HEAD, None] = by_tensor[EMBEDDING, None]
    folder.check(by_tensor.values())
    if (HEAD, None) in by_tensor:
        _check_rows(by_tensor[HEAD, None].shapes[0][0], model.language.vocab_size)

    def source(tensor: WholeTensor) -> torch.Tensor:
        found = folder.merged(by_tensor[tensor.key, tensor.layer])
        if tensor.key == POSITION:
            return resize(found, stored.vision.patches_per_side, model.vision.patches_per_side)
        if tensor.key == EMBEDDING:
            return fit_embedding(found, model.language.vocab_size, lambda: fresh(tensor))
        if tensor.key == HEAD:
            return fit_head(found, model.language.vocab_size)
        return found

    return source


def fit_embedding(base_VH: torch.Tensor, vocab_size: int, fresh: Callable[[], torch.Tensor]) -> torch.Tensor:
    """Input embedding for another vocabulary: surplus rows are cut, rows of new tokens come from `fresh`.

    Args:
        base_VH: of a bare language model. Qwen2.5's has rows for more tokens than its tokenizer knows.
        vocab_size: rows wanted.
        fresh: random values for the whole embedding, of which rows beyond the base's are taken; asked if there are any.

    Returns:
        [vocab_size, H] in the base's dtype.
    """
    missing = vocab_size - base_VH.size(0)
    if missing <= 0:
        return base_VH[:vocab_size]
    return torch.cat([base_VH, fresh()[base_VH.size(0) : vocab_size].to(base_VH.dtype)])


def fit_head(base_VH: torch.Tensor, vocab_size: int, added: int = len(tokens.ADDED)) -> torch.Tensor:
    """Output embedding for another vocabulary: rows of the added tokens, the last ones, are the mean of those before.

    A new token thus begins as likely as an average one, in place of some random direction. The mean is taken in
    float32. A head that has this vocabulary already stays as it is.

    Args:
        base_VH: of a bare language model.
        vocab_size: rows wanted.
        added: how many of them belong to tokens that the base does not know.

    Returns:
        [vocab_size, H] in the base's dtype.

    Raises:
        UnsupportedModelError: the base has too few rows.
    """
    if base_VH.size(0) == vocab_size:
        return base_VH
    _check_rows(base_VH.size(0), vocab_size, added)
    old_VH = base_VH[: vocab_size - added]
    mean_1H = old_VH.float().mean(0, keepdim=True).to(base_VH.dtype)
    return torch.cat([old_VH, mean_1H.expand(added, -1)])


def _check_rows(rows: int, vocab_size: int, added: int = len(tokens.ADDED)) -> None:
    known = vocab_size - added
    if rows < known:
        raise UnsupportedModelError(
            f"the language model has {rows} tokens; a vocabulary of {vocab_size} with {added} added tokens "
            f"needs at least {known} that it knows; give the size of its tokenizer's vocabulary by --vocab-size"
        )


def _stored(folder: HuggingFaceFolder, model: ModelGeometry, components: Collection[Component]) -> ModelGeometry:
    """The geometry of the model as the folder has it, of which only what a start may change differs from `model`."""
    found = folder.description
    absent = [str(component) for component in components if component not in found.components]
    if absent:
        raise UnsupportedModelError(
            f"{folder.uri} holds {', '.join(found.components)}, not {', '.join(absent)}; give another folder for it"
        )
    vision, language = found.vision or model.vision, found.language or model.language
    if Component.VISION in components:
        _same(folder.uri, "vision encoder", vision, model.vision, {"image_size", "layer_scale_init"})
    if Component.LANGUAGE in components:
        may_differ = {"vocab_size"} if len(found.components) == 1 else set()
        _same(folder.uri, "language model", language, model.language, may_differ)
    vision = vision.model_copy(update={"image_size": found.stored_image_size or vision.image_size})
    return model.model_copy(update={"vision": vision, "language": language})


def _same[Part: (VisionGeometry, LanguageGeometry)](
    uri: str, part: str, found: Part, wanted: Part, may_differ: set[str]
) -> None:
    theirs, ours = found.model_dump(exclude=may_differ), wanted.model_dump(exclude=may_differ)
    different = [
        f"{field} {theirs[field]!r} instead of {ours[field]!r}" for field in ours if theirs[field] != ours[field]
    ]
    if different:
        raise UnsupportedModelError(
            f"the {part} in {uri} is not the model's: {', '.join(different)}; give the folder that belongs to the model"
        )
