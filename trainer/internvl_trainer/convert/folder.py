"""Reads a Hugging Face folder, here or in a bucket, one tensor at a time."""

import json
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import torch

from internvl_trainer.convert.errors import FolderError, MissingTensorError
from internvl_trainer.convert.mapping import Mapping, check_shape
from internvl_trainer.convert.read_config import Description, describe
from internvl_trainer.convert.safetensors_file import StoredTensor, buffer_of, empty, read_header
from internvl_trainer.storage import ObjectStore

CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"

PART = 64 * 1024 * 1024
"""Bytes of one request."""

PARTS_IN_FLIGHT = 4

_MODULE_NAMES = {
    "model.vision_tower.": "vision_tower.",
    "model.multi_modal_projector.": "multi_modal_projector.",
    "model.language_model.": "language_model.model.",
    "lm_head.": "language_model.lm_head.",
}
"""Folders in the transformers layout may have the classes' names or, as transformers saves them, older ones."""

_DERIVED = ("rotary_emb.inv_freq",)
"""Ends of names that old checkpoints hold besides weights."""


class HuggingFaceFolder:
    """A folder of config.json and safetensors, whole or in shards. Only headers are read until a tensor is asked for.

    Args:
        uri: `s3://`, `file://` or a path.
        store: reads it.

    Raises:
        FolderError: a file is missing, damaged, or not of the safetensors kind.
        UnsupportedModelError: config.json asks for something that this model does not compute.
        StoreError: the store does not answer, or refuses.
    """

    def __init__(self, uri: str, store: ObjectStore) -> None:
        self.uri = uri.rstrip("/")
        self._store = store
        self._sizes = {info.uri.removeprefix(f"{self.uri}/"): info.size for info in store.list(f"{self.uri}/")}
        self.config: dict[str, Any] = self._json(CONFIG)
        self.description: Description = describe(self.config)
        self.tensors: dict[str, StoredTensor] = self._tensors()
        """By name; in the transformers layout, by the names of saved files, whichever the folder has."""

    @property
    def name(self) -> str:
        """The last segment of the folder's address."""
        return self.uri.rsplit("/", 1)[-1]

    def check(self, mappings: Iterable[Mapping]) -> None:
        """Whether the folder holds exactly the tensors of these mappings; before any tensor is read.

        Raises:
            MissingTensorError: names what is missing and what is there beyond it.
            TensorShapeError: names the first tensor that has another shape than the model's geometry gives it.
        """
        shapes = {name: shape for each in mappings for name, shape in zip(each.names, each.shapes, strict=True)}
        wanted = shapes.keys()
        missing = sorted(wanted - self.tensors.keys())
        unknown = sorted(self.tensors.keys() - wanted)
        if missing or unknown:
            faults = [f"lacks {_some(missing)}"] * bool(missing) + [f"also has {_some(unknown)}"] * bool(unknown)
            raise MissingTensorError(
                f"{self.uri} {' and '.join(faults)}; check that config.json belongs to the weights and that adapters "
                "are merged"
            )
        for name, shape in shapes.items():
            check_shape(name, self.tensors[name].shape, shape)

    def read(self, name: str) -> torch.Tensor:
        """One tensor, in the dtype that it is stored in, on the CPU.

        Raises:
            MissingTensorError: there is none of this name.
            FolderError: its bytes cannot be had, or it is of a dtype that no weight has.
        """
        stored = self.tensors.get(name)
        if stored is None:
            raise MissingTensorError(f"{self.uri} has no tensor {name}")
        tensor = empty(name, stored)
        self._fill(buffer_of(tensor), stored)
        return tensor

    def merged(self, mapping: Mapping) -> torch.Tensor:
        """One tensor of ours, from those that the mapping names.

        Raises:
            as `read`, and TensorShapeError.
        """
        return mapping.merge([self.read(name) for name in mapping.names])

    def _fill(self, buffer: memoryview, stored: StoredTensor) -> None:
        uri = f"{self.uri}/{stored.file}"

        def fetch(begin: int) -> None:
            wanted = buffer[begin : begin + PART]
            received = self._store.read_range(uri, stored.offset + begin, len(wanted))
            if len(received) != len(wanted):
                raise FolderError(f"{uri} ended early: {len(received)} of {len(wanted)} bytes came")
            wanted[:] = received

        starts = range(0, len(buffer), PART)
        if len(starts) == 1:
            fetch(0)
            return
        with ThreadPoolExecutor(PARTS_IN_FLIGHT, thread_name_prefix="tensor-part") as pool:
            for _ in pool.map(fetch, starts):
                pass

    def _tensors(self) -> dict[str, StoredTensor]:
        found: dict[str, StoredTensor] = {}
        for file in self._files():
            read = partial(self._store.read_range, f"{self.uri}/{file}")
            for name, stored in read_header(file, self._size(file), read).items():
                if name.endswith(_DERIVED):
                    continue
                if (canonical := self._canonical(name)) in found:
                    raise FolderError(
                        f"{self.uri} holds tensor {canonical} twice, in {found[canonical].file} and in {file}; "
                        "remove the file that does not belong to the model"
                    )
                found[canonical] = stored
        return found

    def _files(self) -> Iterator[str]:
        if INDEX in self._sizes:
            try:
                yield from sorted(set(self._json(INDEX)["weight_map"].values()))
            except (KeyError, AttributeError, TypeError) as error:
                raise FolderError(f"{self.uri}/{INDEX} has no weight_map of tensor names to files") from error
        elif SINGLE in self._sizes:
            yield SINGLE
        else:
            raise FolderError(self._no_weights())

    def _no_weights(self) -> str:
        pickled = sorted(name for name in self._sizes if name.endswith((".bin", ".pt", ".pth")) and "/" not in name)
        if pickled:
            return (
                f"{self.uri} has its weights as {', '.join(pickled[:3])}, which is pickled and may run code when read; "
                "load the model with transformers and save it again with save_pretrained, which writes safetensors"
            )
        return f"{self.uri} has neither {SINGLE} nor {INDEX}"

    def _canonical(self, name: str) -> str:
        if self.config["model_type"] != "internvl":
            return name
        for prefix, saved in _MODULE_NAMES.items():
            if name.startswith(prefix):
                return saved + name.removeprefix(prefix)
        return name

    def _json(self, file: str) -> dict[str, Any]:
        self._size(file)
        try:
            content = json.loads(self._store.read(f"{self.uri}/{file}"))
        except ValueError as error:
            raise FolderError(f"{self.uri}/{file} is no JSON: {error}") from error
        if not isinstance(content, dict):
            raise FolderError(f"{self.uri}/{file} holds no JSON object")
        return content

    def _size(self, file: str) -> int:
        if file not in self._sizes:
            raise FolderError(f"{self.uri} has no file {file}; give a folder as Hugging Face saves it")
        return self._sizes[file]


def _some(names: list[str], shown: int = 5) -> str:
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more
