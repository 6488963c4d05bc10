"""From a committed checkpoint to a Hugging Face folder, one tensor in memory at a time."""

import secrets
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch

from internvl_trainer.checkpoint.errors import InvalidCheckpointError
from internvl_trainer.checkpoint.torch_dist_reader import TorchDistReader
from internvl_trainer.checkpoint.verify import Source
from internvl_trainer.checkpoint.weights import opened_weights
from internvl_trainer.contract.base import Component
from internvl_trainer.convert.errors import FolderError
from internvl_trainer.convert.mapping import Layout, Mapping
from internvl_trainer.convert.safetensors_file import TensorSpec
from internvl_trainer.convert.tables import bare_mappings, mappings
from internvl_trainer.convert.write_config import documents
from internvl_trainer.convert.write_folder import write_folder
from internvl_trainer.storage import ObjectStore

TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json"),
    *("merges.txt", "tokenizer.model", "chat_template.jinja", "generation_config.json", "preprocessor_config.json"),
    *("tokenization_internlm2.py", "tokenization_internlm2_fast.py"),
)
"""What a tokenizer folder may hold that belongs to a model."""


class ExportPlan(NamedTuple):
    """Which tensors of which checkpoint go under which names."""

    source: Source
    layout: Layout
    component: Component | None
    table: list[Mapping]


class Exported(NamedTuple):
    """What lies in the folder now."""

    tensors: int
    size: int
    """Bytes of tensors."""


def check_destination(folder: Path) -> None:
    """Whether a folder may be written: it does not exist, or is empty.

    Raises:
        FolderError: it is not so.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FolderError(f"{folder} is not empty; give a folder that does not exist")


def plan(source: Source, layout: Layout, component: Component | None = None) -> ExportPlan:
    """What to write of a checkpoint, by its manifest alone.

    Args:
        source: the checkpoint, saved at any layout of processes.
        layout: whose names and configuration.
        component: vision or language, as the bare part that its own repository would hold; None for the whole model.

    Raises:
        InvalidCheckpointError: the checkpoint lacks a component, or holds tensors that have no place in the folder.
    """
    manifest, uri = source.manifest, source.ref.uri
    chosen = tuple(Component) if component is None else (component,)
    if lacking := [str(each) for each in chosen if not manifest.components.get(each)]:
        there = ", ".join(each for each in Component if manifest.components.get(each))
        raise InvalidCheckpointError(
            f"{uri} holds no {' and no '.join(lacking)}, only {there}; name what to export by --component"
        )
    model = manifest.model
    table = list(mappings(model, layout) if component is None else bare_mappings(model, component, layout))
    stored = {name for each in chosen for name in manifest.components[each]}
    if unknown := sorted(stored - {mapping.tensor.key for mapping in table}):
        raise InvalidCheckpointError(f"{uri} holds tensors that have no place in the folder: {', '.join(unknown[:5])}")
    return ExportPlan(source, layout, component, table)


def export(
    plan: ExportPlan,
    store: ObjectStore,
    folder: Path,
    *,
    dtype: torch.dtype | None = None,
    image_token: int | None = None,
    tokenizer: Path | None = None,
    scratch: Path | None = None,
    written: Callable[[torch.Tensor], None] = lambda values: None,
) -> Exported:
    """Write a Hugging Face folder, one tensor in memory at a time; it appears when it is whole.

    Args:
        plan: what to write.
        store: opened for the checkpoint.
        folder: appears at the end.
        dtype: of all tensors; None keeps each tensor's own.
        image_token: id of `<IMG_CONTEXT>` in the tokenizer that goes with the model; None: as in the released ones.
        tokenizer: a folder whose tokenizer files go along.
        scratch: see `opened_weights`.
        written: told of each tensor of the checkpoint that has been written.

    Raises:
        FolderError: the folder is not empty, or the tokenizer folder holds no tokenizer.
        UnsupportedModelError: the layout cannot say what this model is.
        InvalidCheckpointError, MissingTensorsError, ShardError: the checkpoint's tensors cannot be had.
        StoreError: the store did not answer.
    """
    check_destination(folder)
    files = tokenizer_files(tokenizer) if tokenizer else []
    wanted = [mapping.tensor for mapping in plan.table]
    with opened_weights(plan.source, store, scratch=scratch) as reader, _appearing(folder) as hidden:
        reader.check(wanted)
        specs = [
            TensorSpec(name, shape, dtype or reader.dtype(mapping.tensor.key))
            for mapping in plan.table
            for name, shape in zip(mapping.names, mapping.shapes, strict=True)
        ]
        about = documents(
            plan.source.manifest.model,
            plan.layout,
            component=plan.component,
            dtype=str(_largest(specs)).removeprefix("torch."),
            image_token=image_token,
        )
        write_folder(hidden, specs, _parts(reader, plan.table, written), about)
        for file in files:
            shutil.copy(file, hidden)
    return Exported(len(specs), sum(spec.size for spec in specs))


def tokenizer_files(folder: Path) -> list[Path]:
    """The files of a tokenizer folder that go along with a model.

    Raises:
        FolderError: there is no tokenizer in it.
    """
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        raise FolderError(f"{folder} has no tokenizer.json, tokenizer.model or vocab.json; give a tokenizer's folder")
    return [folder / name for name in TOKENIZER_FILES if (folder / name).is_file()]


def _largest(specs: list[TensorSpec]) -> torch.dtype:
    """The dtype of most bytes, which config.json names."""
    sizes: Counter[torch.dtype] = Counter()
    for spec in specs:
        sizes[spec.dtype] += spec.size
    return sizes.most_common(1)[0][0]


def _parts(
    reader: TorchDistReader, table: list[Mapping], written: Callable[[torch.Tensor], None]
) -> Iterator[tuple[str, torch.Tensor]]:
    values = reader.stream([mapping.tensor for mapping in table])
    for mapping in table:
        _, whole = next(values)
        yield from zip(mapping.names, mapping.split(whole), strict=True)
        written(whole)
        del whole  # or it would stay until the next one has come


@contextmanager
def _appearing(folder: Path) -> Iterator[Path]:
    """A hidden folder beside `folder`, which gets its name when the block ends without an error, else is removed."""
    folder.absolute().parent.mkdir(parents=True, exist_ok=True)
    hidden = folder.absolute().with_name(f".unfinished-{folder.name}-{secrets.token_hex(4)}")
    try:
        yield hidden
        # Over an empty folder, too; a folder that somebody has filled meanwhile is an error.
        hidden.rename(folder)
    finally:
        shutil.rmtree(hidden, ignore_errors=True)
